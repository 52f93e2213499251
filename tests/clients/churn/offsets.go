package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

type place struct {
	group, topic string
	partition    int32
}

// offsets: groups that read and commit. A committed offset never goes back, and is never beyond the end of the log.
type offsets struct {
	sum       *tally
	bootstrap string
	topics    []string
	groups    []string
	mutex     sync.Mutex
	acked     map[place]int64
}

func newOffsets(sum *tally, bootstrap, topics string, groups int) *offsets {
	o := &offsets{sum: sum, bootstrap: bootstrap, topics: strings.Split(topics, ","), acked: map[place]int64{}}
	for n := range groups {
		o.groups = append(o.groups, fmt.Sprintf("churn-%d", n))
	}
	return o
}

func (o *offsets) work(ctx context.Context) {
	var members sync.WaitGroup
	for _, group := range o.groups {
		// One stays, one comes and goes, so that there are rebalances.
		members.Go(func() { o.member(ctx, group) })
		members.Go(func() {
			for ctx.Err() == nil {
				visit, leave := context.WithTimeout(ctx, 15*time.Second)
				o.member(visit, group)
				leave()
				o.sum.count("members left", 1)
			}
		})
	}
	members.Wait()
}

func (o *offsets) member(ctx context.Context, group string) {
	client := connect(o.bootstrap, kgo.ConsumerGroup(group), kgo.ConsumeTopics(o.topics...), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.SessionTimeout(6*time.Second),
		kgo.RebalanceTimeout(6*time.Second), kgo.HeartbeatInterval(300*time.Millisecond), kgo.FetchMaxWait(200*time.Millisecond))
	defer client.Close()
	for ctx.Err() == nil {
		polled, cancel := context.WithTimeout(ctx, time.Second)
		fetches := client.PollRecords(polled, 2000)
		cancel()
		if fetches.NumRecords() > 0 {
			o.commit(ctx, client, group, fetches)
		}
		client.AllowRebalance()
	}
}

func (o *offsets) commit(ctx context.Context, client *kgo.Client, group string, fetches kgo.Fetches) {
	behind := map[place]int64{}
	fetches.EachRecord(func(r *kgo.Record) { behind[place{group, r.Topic, r.Partition}] = r.Offset + 1 })
	limit, cancel := limited(ctx)
	defer cancel()
	if err := client.CommitRecords(limit, fetches.Records()...); err != nil {
		o.sum.count("commits refused or unanswered", 1)
		return
	}
	o.mutex.Lock()
	for place, offset := range behind {
		o.acked[place] = max(o.acked[place], offset)
	}
	o.mutex.Unlock()
	o.sum.count("commits", int64(len(behind)))
}

func (o *offsets) check(ctx context.Context, admin *kadm.Client) error {
	for _, group := range o.groups {
		o.mutex.Lock()
		promised := map[place]int64{}
		for place, offset := range o.acked {
			if place.group == group {
				promised[place] = offset
			}
		}
		o.mutex.Unlock()
		limit, cancel := limited(ctx)
		committed, err := admin.FetchOffsets(limit, group)
		if err == nil {
			err = committed.Error()
		}
		cancel()
		if err != nil {
			return err
		}
		limit, cancel = limited(ctx)
		ends, err := admin.ListEndOffsets(limit, o.topics...)
		if err == nil {
			err = ends.Error()
		}
		cancel()
		if err != nil {
			return err
		}
		for place, offset := range promised {
			found, ok := committed.Lookup(place.topic, place.partition)
			if !ok || found.At < offset {
				o.sum.violation("committed offset gone back", "%v: %d was acknowledged, now %d (there: %v)", place, offset, found.At, ok)
			}
		}
		committed.Each(func(found kadm.OffsetResponse) {
			if end, ok := ends.Lookup(found.Topic, found.Partition); ok && found.At > end.Offset {
				o.sum.violation("committed beyond the end", "%s %s-%d: %d, the log ends at %d", group, found.Topic, found.Partition, found.At, end.Offset)
			}
		})
	}
	return nil
}
