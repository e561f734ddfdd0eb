// Stands in front of Google's Pub/Sub emulator and ends the streams of clients that are gone.
//
// The emulator (0.8.20) does not notice a StreamingPull whose client cancelled it or died; it notices only an orderly end of the
// requests. To it the stream stays open for ever, and with message ordering it goes on to hand its share of the ordering keys
// to nobody: after each restart of a worker a part of all lanes stands still. The service itself does not do that. So whenever a
// client is gone, its requests towards the emulator are ended in order here.
//
//	pubsub-front -listen 127.0.0.1:8085 -emulator 127.0.0.1:8086 [command that starts the emulator…]
package main

import (
	"context"
	"flag"
	"io"
	"log"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:8085", "where clients connect")
	emulator := flag.String("emulator", "127.0.0.1:8086", "where the emulator listens")
	flag.Parse()
	if command := flag.Args(); len(command) > 0 {
		start(command)
	}

	var cleartext, plain http.Protocols
	cleartext.SetUnencryptedHTTP2(true)
	plain.SetHTTP1(true)
	front := &front{
		host: *emulator,
		grpc: &http.Transport{Protocols: &cleartext},
		rest: &http.Transport{Protocols: &plain},
	}
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	server := &http.Server{Addr: *listen, Handler: front, Protocols: &both}
	log.Fatal(server.ListenAndServe())
}

// Starts the emulator in this process's group; neither outlives the other for long.
func start(command []string) {
	emulator := exec.Command(command[0], command[1:]...)
	emulator.Stdout, emulator.Stderr = os.Stdout, os.Stderr
	if err := emulator.Start(); err != nil {
		log.Fatal(err)
	}
	go func() {
		log.Fatal("the emulator ended: ", emulator.Wait())
	}()
}

type front struct {
	host       string
	grpc, rest *http.Transport
}

func (f *front) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	// Not the client's own context: what it cancels is ended in order instead.
	body, requests := io.Pipe()
	target := url.URL{Scheme: "http", Host: f.host, Path: request.URL.Path, RawPath: request.URL.RawPath, RawQuery: request.URL.RawQuery}
	forward, err := http.NewRequestWithContext(context.Background(), request.Method, target.String(), body)
	if err != nil {
		http.Error(answer, err.Error(), http.StatusBadRequest)
		return
	}
	forward.Header = request.Header.Clone()
	go func() {
		// Whether the client ended its requests or is gone: the emulator sees an orderly end.
		_, _ = io.Copy(requests, request.Body)
		_ = requests.Close()
	}()
	go func() {
		<-request.Context().Done()
		_ = requests.Close()
	}()

	transport := f.rest
	if strings.HasPrefix(request.Header.Get("content-type"), "application/grpc") {
		transport = f.grpc
	} else {
		forward.ContentLength = request.ContentLength
	}
	response, err := transport.RoundTrip(forward)
	if err != nil {
		_ = body.Close()
		http.Error(answer, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	headers := answer.Header()
	for name, values := range response.Header {
		headers[name] = values
	}
	answer.WriteHeader(response.StatusCode)
	flush(answer)
	buffer := make([]byte, 64<<10)
	for {
		count, err := response.Body.Read(buffer)
		if count > 0 {
			// A client that is gone takes nothing; the emulator's answer is read to its end all the same.
			if _, gone := answer.Write(buffer[:count]); gone == nil {
				flush(answer)
			}
		}
		if err != nil {
			break
		}
	}
	for name, values := range response.Trailer {
		headers[http.TrailerPrefix+name] = values
	}
}

func flush(answer http.ResponseWriter) {
	if flusher, ok := answer.(http.Flusher); ok {
		flusher.Flush()
	}
}
