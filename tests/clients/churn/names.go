package main

import (
	"context"
	"fmt"
	"math/rand"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// How many topics there are at most at a time.
	topicsMax = 40
	// What a broker lists is at most this old.
	lag = 3 * time.Second
)

// names: topics that come and go, each of a name that is never used again. What was created is there until it is deleted, what was deleted stays
// away, and so does what was written to it.
type names struct {
	sum       *tally
	bootstrap string
	chance    *rand.Rand
	mutex     sync.Mutex
	present   map[string]string // acknowledged, no deletion asked for yet: what stands in its first record, or ""
	absent    map[string]bool
}

func newNames(sum *tally, bootstrap string, chance *rand.Rand) *names {
	return &names{sum: sum, bootstrap: bootstrap, chance: chance, present: map[string]string{}, absent: map[string]bool{}}
}

func (n *names) work(ctx context.Context) {
	client := connect(n.bootstrap)
	defer client.Close()
	admin := kadm.NewClient(client)
	for number := 0; ctx.Err() == nil; number++ {
		n.create(ctx, admin, client, fmt.Sprintf("churn-topic-%d", number))
		n.mutex.Lock()
		var victim string
		if len(n.present) > topicsMax || n.chance.Intn(3) == 0 {
			for name := range n.present {
				victim = name
				break
			}
			delete(n.present, victim)
		}
		n.mutex.Unlock()
		if victim != "" {
			n.remove(ctx, admin, victim)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (n *names) create(ctx context.Context, admin *kadm.Client, client *kgo.Client, name string) {
	limit, cancel := limited(ctx)
	defer cancel()
	// A repeated request that finds the topic there says as much as a first one that makes it.
	created, err := admin.CreateTopic(limit, int32(1+n.chance.Intn(4)), 1, nil, name)
	if err != nil && !is(err, kerr.TopicAlreadyExists) && !is(created.Err, kerr.TopicAlreadyExists) {
		n.sum.count("creations refused or unanswered", 1)
		return
	}
	n.sum.count("topics created", 1)
	n.mutex.Lock()
	n.present[name] = ""
	n.mutex.Unlock()
	limit, cancel = limited(ctx)
	defer cancel()
	record := &kgo.Record{Topic: name, Value: []byte("of " + name)}
	if client.ProduceSync(limit, record).FirstErr() != nil {
		return
	}
	n.mutex.Lock()
	if _, there := n.present[name]; there {
		n.present[name] = string(record.Value)
	}
	n.mutex.Unlock()
}

func (n *names) remove(ctx context.Context, admin *kadm.Client, name string) {
	limit, cancel := limited(ctx)
	defer cancel()
	deleted, err := admin.DeleteTopic(limit, name)
	if err != nil && !is(err, kerr.UnknownTopicOrPartition) && !is(deleted.Err, kerr.UnknownTopicOrPartition) {
		n.sum.count("deletions refused or unanswered", 1)
		return
	}
	n.sum.count("topics deleted", 1)
	n.mutex.Lock()
	n.absent[name] = true
	n.mutex.Unlock()
}

func (n *names) check(ctx context.Context, admin *kadm.Client) error {
	n.mutex.Lock()
	var present, absent []string
	for name := range n.present {
		present = append(present, name)
	}
	for name := range n.absent {
		absent = append(absent, name)
	}
	n.mutex.Unlock()
	missing, back, err := n.compare(ctx, admin, present, absent)
	if err != nil || len(missing)+len(back) == 0 {
		return err
	}
	// What a broker lists may lag behind what its controller knows, as Apache Kafka's does for a moment after a start.
	select {
	case <-ctx.Done():
	case <-time.After(lag):
	}
	missing, back, err = n.compare(ctx, admin, missing, back)
	if err != nil {
		return err
	}
	for _, name := range missing {
		n.sum.violation("topic missing", "%s was created", name)
	}
	for _, name := range back {
		n.sum.violation("topic back", "%s was deleted", name)
	}
	return nil
}

// compare gives those of `present` that are not listed (and nobody deletes), and those of `absent` that are.
func (n *names) compare(ctx context.Context, admin *kadm.Client, present, absent []string) (missing, back []string, err error) {
	limit, cancel := limited(ctx)
	defer cancel()
	listed, err := admin.ListTopics(limit)
	if err != nil {
		return nil, nil, err
	}
	for _, name := range present {
		n.mutex.Lock()
		_, still := n.present[name] // whoever deletes it takes it from there first
		n.mutex.Unlock()
		if still && !listed.Has(name) {
			missing = append(missing, name)
		}
	}
	for _, name := range absent {
		if listed.Has(name) {
			back = append(back, name)
		}
	}
	return missing, back, nil
}

// readBack looks for the record of every topic that is left.
func (n *names) readBack(ctx context.Context) {
	for name, value := range n.present {
		if value == "" {
			continue
		}
		client := connect(n.bootstrap, kgo.ConsumeTopics(name), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		limit, cancel := limited(ctx)
		found := ""
		for limit.Err() == nil && found != value {
			client.PollFetches(limit).EachRecord(func(r *kgo.Record) {
				if string(r.Value) == value {
					found = value
				}
			})
		}
		cancel()
		client.Close()
		if found != value {
			n.sum.violation("record of a topic lost", "%s", name)
		}
		n.sum.count("topics read back", 1)
	}
}
