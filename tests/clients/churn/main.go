// churn keeps a broker busy with everything beside plain producing, through all crashes until SIGTERM, and checks what it was promised: groups that
// commit offsets, topics that come and go, a log whose start moves by retention and by DeleteRecords.
//
// It knows only what it was told. A request without an answer may have taken effect or not; one that was answered has, for ever. Its output is
// one JSON object: how much of each was acknowledged, how often everything was checked, and how often each promise was broken.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// Longest wait for one answer: a broker that is down for a while is asked again.
const patience = 15 * time.Second

type tally struct {
	sync.Mutex
	Counts     map[string]int64  `json:"counts"`
	Violations map[string]int64  `json:"violations"`
	Examples   map[string]string `json:"examples"`
}

func (t *tally) count(what string, n int64) {
	t.Lock()
	t.Counts[what] += n
	t.Unlock()
}

func (t *tally) violation(kind, format string, args ...any) {
	t.Lock()
	defer t.Unlock()
	t.Violations[kind]++
	if _, known := t.Examples[kind]; !known {
		t.Examples[kind] = fmt.Sprintf(format, args...)
		fmt.Fprintf(os.Stderr, "%s: %s\n", kind, t.Examples[kind])
	}
}

func fatal(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func connect(bootstrap string, options ...kgo.Opt) *kgo.Client {
	common := []kgo.Opt{
		kgo.SeedBrokers(bootstrap), kgo.MetadataMinAge(250 * time.Millisecond), kgo.UnknownTopicRetries(-1),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	}
	client, err := kgo.NewClient(append(common, options...)...)
	fatal(err)
	return client
}

func limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, patience)
}

func main() {
	bootstrap := flag.String("bootstrap", "", "broker")
	topics := flag.String("topics", "all,one", "topics that groups read, of somebody who produces to them")
	groups := flag.Int("groups", 3, "groups, of two members each")
	seed := flag.Int64("seed", 1, "of its choices")
	progress := flag.String("progress", "", "file that holds the number of checks so far")
	flag.Parse()
	stopping, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	sum := &tally{Counts: map[string]int64{}, Violations: map[string]int64{}, Examples: map[string]string{}}
	admin := kadm.NewClient(connect(*bootstrap))
	offsets := newOffsets(sum, *bootstrap, *topics, *groups)
	names := newNames(sum, *bootstrap, rand.New(rand.NewSource(*seed)))
	trimmed := newTrimmed(sum, *bootstrap, rand.New(rand.NewSource(*seed+1)))

	var working sync.WaitGroup
	for _, work := range []func(context.Context){offsets.work, names.work, trimmed.work} {
		working.Go(func() { work(stopping) })
	}
	check := func(ctx context.Context) bool {
		err := errors.Join(offsets.check(ctx, admin), names.check(ctx, admin), trimmed.check(ctx, admin))
		if err == nil {
			sum.count("checks", 1)
		}
		return err == nil
	}
	for stopping.Err() == nil {
		check(stopping)
		if *progress != "" {
			sum.Lock()
			text := fmt.Sprint(sum.Counts["checks"])
			sum.Unlock()
			os.WriteFile(*progress+".new", []byte(text), 0o644)
			os.Rename(*progress+".new", *progress)
		}
		select {
		case <-stopping.Done():
		case <-time.After(time.Second):
		}
	}
	working.Wait()
	final, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for !check(final) {
		if final.Err() != nil {
			fatal(errors.New("the last check could not be made"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	trimmed.readBack(final)
	names.readBack(final)
	json.NewEncoder(os.Stdout).Encode(sum)
}

// is tells whether the broker answered with this error.
func is(err error, code *kerr.Error) bool { return errors.Is(err, code) }
