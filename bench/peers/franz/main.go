// The bench's franz-go contender: a bare loop that reads every partition of one topic from its beginning, counts
// the records and throws them away. No group, no commit. What it is given and what it prints is in bench/README.md,
// and why it is set up as it is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	longestWait = 10 * time.Second
	// The collector then runs a quarter as often as by default. Where GOGC is set, that holds.
	gcPercent = 400
)

type args struct {
	server, topic string
	count         int64
}

func parse() (args, error) {
	var a args
	flag.StringVar(&a.server, "bootstrap-server", "", "`HOST:PORT` of the broker")
	flag.StringVar(&a.topic, "topic", "", "`NAME` of the topic, read from its beginning")
	flag.Int64Var(&a.count, "count", 0, "end when `N` records were read")
	flag.Parse()
	if a.server == "" || a.topic == "" || a.count < 1 || flag.NArg() > 0 {
		return a, errors.New("needs --bootstrap-server HOST:PORT --topic NAME --count N, with N at least 1")
	}
	return a, nil
}

// recordPool gives the client the records of earlier batches again.
type recordPool struct{ records sync.Pool }

func (p *recordPool) GetRecords(n int) []kgo.Record {
	if records, ok := p.records.Get().(*[]kgo.Record); ok && cap(*records) >= n {
		return (*records)[:0]
	}
	return make([]kgo.Record, 0, n)
}

func (p *recordPool) PutRecords(records []kgo.Record) { p.records.Put(&records) }

func read(a args) (records, bytes int64, err error) {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(a.server),
		kgo.ConsumeTopics(a.topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.WithPools(&recordPool{}),
	)
	if err != nil {
		return 0, 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), longestWait)
	err = client.Ping(ctx)
	cancel()
	if err != nil {
		return 0, 0, err
	}
	// It is not closed: that waits for the fetches under way, and the process ends anyway.
	for records < a.count {
		ctx, cancel := context.WithTimeout(context.Background(), longestWait)
		fetches := client.PollFetches(ctx)
		cancel()
		fetches.EachError(func(_ string, _ int32, cause error) { err = cause })
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("waited %s for a record of topic %s", longestWait, a.topic)
		}
		if err != nil {
			return records, bytes, err
		}
		fetches.EachRecord(func(record *kgo.Record) {
			records++
			bytes += int64(len(record.Value))
			record.Recycle()
		})
	}
	return records, bytes, nil
}

func main() {
	a, err := parse()
	if err != nil {
		fmt.Fprintln(os.Stderr, "franz:", err)
		os.Exit(64)
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	records, bytes, err := read(a)
	if err != nil {
		cause := strings.ReplaceAll(err.Error(), "\n", " ")
		fmt.Fprintf(os.Stderr, "franz: %s: %s, after %d of %d records\n", a.server, cause, records, a.count)
		os.Exit(1)
	}
	fmt.Printf("{\"records\":%d,\"bytes\":%d}\n", records, bytes)
}
