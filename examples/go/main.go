// Streams events to eventkit over one bidirectional call: numbered batches out, acknowledgements back. When the stream breaks, what
// was not acknowledged is sent again, with the same message ids, and each event is still one row.
//
//	go run . localhost:50051 < events.ndjson
//
// Each line is one event: {"userId": "ada", "event": "Order Placed", "properties": {"total": 12.5}}
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"os"
	"strconv"
	"time"

	"github.com/google/uuid"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "example.com/eventkit-send/eventkitv1"
)

const (
	batchEvents   = 100                   // at most so many in one batch
	linger        = 20 * time.Millisecond // so long a batch that is not full waits for more
	waitingEvents = 10_000                // at most so many not in a batch yet; Send waits then
	windowMax     = 1_000                 // at most so many batches unacknowledged, whatever the server allows
	giveUp        = 2 * time.Minute       // so long without an acknowledgement is a failure
)

// streamMax is a stream's deadline: the next one may lead to another server.
var streamMax = 5 * time.Minute

// Counts says what became of the events.
type Counts struct{ Accepted, Duplicate, Rejected uint32 }

// Sender takes events from any goroutine. They are delivered when Close returns.
type Sender struct {
	client         pb.IngestServiceClient
	events         chan *pb.Event
	batches        chan *pb.CollectBidiRequest
	unacknowledged []*pb.CollectBidiRequest // the oldest first; the delivering goroutine's own
	counts         Counts
	failed         context.Context // ends with the failure, or when everything is delivered
	fail           context.CancelCauseFunc
}

// errDelivered is the end that everyone hopes for.
var errDelivered = errors.New("everything is delivered")

// NewSender begins to deliver.
func NewSender(conn *grpc.ClientConn) *Sender {
	s := &Sender{
		client:  pb.NewIngestServiceClient(conn),
		events:  make(chan *pb.Event, waitingEvents),
		batches: make(chan *pb.CollectBidiRequest),
	}
	s.failed, s.fail = context.WithCancelCause(context.Background())
	go s.gather()
	go s.deliver()
	return s
}

// Send takes an event, and waits while too many are under way.
func (s *Sender) Send(userID, event string, properties json.RawMessage) error {
	message := &pb.Event{
		// Made once, here: every retry carries it, and eventkit stores an id once.
		MessageId:      uuid.NewString(),
		Type:           "track",
		UserId:         userID,
		Event:          event,
		Timestamp:      timestamppb.Now(),
		PropertiesJson: properties,
	}
	select {
	case s.events <- message:
		return nil
	case <-s.failed.Done():
		return context.Cause(s.failed)
	}
}

// Close waits until everything is durable, and says what became of it. Nothing may be sent after it.
func (s *Sender) Close() (Counts, error) {
	close(s.events)
	<-s.failed.Done()
	if err := context.Cause(s.failed); err != errDelivered {
		return s.counts, err
	}
	return s.counts, nil
}

// gather makes batches of events.
func (s *Sender) gather() {
	defer close(s.batches)
	for event := range s.events {
		batch := &pb.CollectBidiRequest{Events: []*pb.Event{event}}
		full := time.After(linger)
	gathering:
		for len(batch.Events) < batchEvents {
			select {
			case event, open := <-s.events:
				if !open {
					break gathering
				}
				batch.Events = append(batch.Events, event)
			case <-full:
				break gathering
			}
		}
		select {
		case s.batches <- batch:
		case <-s.failed.Done():
			return
		}
	}
}

// deliver opens one stream after the other, until everything is acknowledged.
func (s *Sender) deliver() {
	tries, failingSince := 0, time.Now()
	for {
		progressed, err := s.stream()
		if err == nil {
			s.fail(errDelivered)
			return
		}
		if progressed || len(s.unacknowledged) == 0 {
			tries, failingSince = 0, time.Now()
		}
		tries++
		if !isWorthARetry(err) || time.Since(failingSince) > giveUp {
			s.fail(err)
			return
		}
		backoff := 50*time.Millisecond + rand.N(100*time.Millisecond<<min(tries, 7))
		pause := max(retryAfter(err), backoff)
		log.Printf("%v; %d batches again in %v", err, len(s.unacknowledged), pause.Round(time.Millisecond))
		time.Sleep(pause)
	}
}

// stream is one call. What is sent on it stays in unacknowledged until it is acknowledged. It returns whether anything was
// acknowledged, and nil when everything was.
func (s *Sender) stream() (progressed bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), streamMax)
	defer cancel()
	call, err := s.client.CollectBidi(ctx)
	if err != nil {
		return false, err
	}
	heard := make(chan *pb.CollectBidiResponse, windowMax+2)
	ended := make(chan error, 1)
	go func() {
		defer close(heard)
		for {
			message, err := call.Recv()
			if err != nil {
				ended <- err
				return
			}
			heard <- message
		}
	}()

	again := s.unacknowledged
	var window, sent, acknowledged uint64 // the server says how large the window is
	send := func(batch *pb.CollectBidiRequest) {
		sent++
		batch.BatchNumber = sent // Each stream counts from 1.
		batch.SentAt = timestamppb.Now()
		// When the stream has broken, Recv says why.
		_ = call.Send(batch)
	}
	open := true
	for {
		var fresh chan *pb.CollectBidiRequest // nil: none is wanted
		if sent-acknowledged < window {
			if len(again) > 0 {
				send(again[0])
				again = again[1:]
				continue
			}
			if open {
				fresh = s.batches
			}
		}
		select {
		case batch, more := <-fresh:
			if !more {
				// Ends our side; the server acknowledges the rest and ends its own.
				open = false
				_ = call.CloseSend()
				continue
			}
			s.unacknowledged = append(s.unacknowledged, batch)
			send(batch)
		case message, more := <-heard:
			if !more {
				if err := <-ended; open || len(s.unacknowledged) > 0 {
					return acknowledged > 0, err
				}
				return true, nil
			}
			if hello := message.GetHello(); hello != nil {
				window = min(uint64(hello.WindowBatches), windowMax)
			}
			if ack := message.GetAck(); ack != nil {
				// It, and every batch before it, is durable.
				s.unacknowledged = s.unacknowledged[ack.BatchNumber-acknowledged:]
				acknowledged = ack.BatchNumber
				s.count(ack)
			}
		}
	}
}

func (s *Sender) count(ack *pb.BatchAck) {
	s.counts.Accepted += ack.Accepted
	s.counts.Duplicate += ack.Duplicate
	s.counts.Rejected += ack.Rejected
	for _, result := range ack.Results {
		if result.Status == pb.EventStatus_EVENT_STATUS_REJECTED {
			// It will not be better next time: tell whoever can mend it.
			log.Printf("rejected %s: %s: %s", result.MessageId, result.Code, result.Reason)
		}
	}
}

// retryAfter is how long the server wants us to wait.
func retryAfter(err error) time.Duration {
	for _, detail := range status.Convert(err).Details() {
		if info, is := detail.(*errdetails.RetryInfo); is {
			return info.RetryDelay.AsDuration()
		}
	}
	return 0
}

func isWorthARetry(err error) bool {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		// "Too fast" says when to come again; "too large" does not.
		return retryAfter(err) > 0
	case codes.InvalidArgument, codes.Unauthenticated, codes.PermissionDenied, codes.Unimplemented:
		// The request itself is wrong: it will be no better next time.
		return false
	}
	return true
}

func main() {
	if seconds, err := strconv.Atoi(os.Getenv("STREAM_SECONDS")); err == nil {
		streamMax = time.Duration(seconds) * time.Second
	}
	conn, err := grpc.NewClient(
		os.Args[1],
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		// A server that is gone without a word is noticed after 30 s.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	sender := NewSender(conn)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var fields struct {
			UserID     string          `json:"userId"`
			Event      string          `json:"event"`
			Properties json.RawMessage `json:"properties"`
		}
		if err := json.Unmarshal(lines.Bytes(), &fields); err != nil {
			log.Fatal(err)
		}
		if err := sender.Send(fields.UserID, fields.Event, fields.Properties); err != nil {
			log.Fatal(err)
		}
	}
	counts, err := sender.Close()
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("accepted %d duplicate %d rejected %d\n", counts.Accepted, counts.Duplicate, counts.Rejected)
}
