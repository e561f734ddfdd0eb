module eventkit/pubsub-front

go 1.24
