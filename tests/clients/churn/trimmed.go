package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"math/rand"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// Its segments are removed by retention.
	shortTopic = "short"
	// Its records are deleted by request.
	cutTopic = "cut"
	// Longer than the broker takes to look for what retention removes.
	settled           = 3 * time.Second
	trimmedPartitions = 3
	valueBytes        = 8 << 10
)

type log struct {
	topic     string
	partition int32
}

// trimmed: logs whose start moves. It never goes back, never passes the end, and what lies behind it is what was acknowledged.
type trimmed struct {
	sum       *tally
	bootstrap string
	chance    *rand.Rand
	mutex     sync.Mutex
	acked     map[log]map[int64]uint32 // CRC-32 of the value, by offset
	end       map[log]int64            // behind the last acknowledged one
	start     map[log]int64            // seen or asked for
}

func newTrimmed(sum *tally, bootstrap string, chance *rand.Rand) *trimmed {
	return &trimmed{sum: sum, bootstrap: bootstrap, chance: chance, acked: map[log]map[int64]uint32{}, end: map[log]int64{}, start: map[log]int64{}}
}

func text(value string) *string { return &value }

func (t *trimmed) work(ctx context.Context) {
	client := connect(t.bootstrap, kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.MaxBufferedRecords(2000))
	admin := kadm.NewClient(client)
	configs := map[string]map[string]*string{
		shortTopic: {"segment.bytes": text("1048576"), "retention.bytes": text("3145728"), "file.delete.delay.ms": text("1000")},
		cutTopic:   {"segment.bytes": text("1048576"), "file.delete.delay.ms": text("1000")},
	}
	for topic, config := range configs {
		for ctx.Err() == nil {
			limit, cancel := limited(ctx)
			created, err := admin.CreateTopic(limit, trimmedPartitions, 1, config, topic)
			cancel()
			if err == nil || is(err, kerr.TopicAlreadyExists) || is(created.Err, kerr.TopicAlreadyExists) {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	for number := uint64(0); ctx.Err() == nil; number++ {
		to := log{[]string{shortTopic, cutTopic}[number%2], int32(number / 2 % trimmedPartitions)}
		value := bytes.Repeat(binary.BigEndian.AppendUint64(nil, number), valueBytes/8)
		sum := crc32.ChecksumIEEE(value)
		client.Produce(ctx, &kgo.Record{Topic: to.topic, Partition: to.partition, Value: value}, func(r *kgo.Record, err error) {
			if err != nil {
				t.sum.count("records refused or unanswered", 1)
				return
			}
			t.note(to, r.Offset, sum)
		})
		if number%500 == 499 {
			t.cut(ctx, admin)
		}
		time.Sleep(2 * time.Millisecond)
	}
	client.AbortBufferedRecords(context.Background())
	client.Close()
}

func (t *trimmed) note(to log, offset int64, sum uint32) {
	t.mutex.Lock()
	defer t.mutex.Unlock()
	if t.acked[to] == nil {
		t.acked[to] = map[int64]uint32{}
	}
	if _, known := t.acked[to][offset]; known {
		t.sum.violation("offset acknowledged twice", "%v: %d", to, offset)
	}
	t.acked[to][offset] = sum
	t.end[to] = max(t.end[to], offset+1)
	t.sum.count("records", 1)
}

// cut deletes the older half of what is there of one log.
func (t *trimmed) cut(ctx context.Context, admin *kadm.Client) {
	at := log{cutTopic, int32(t.chance.Intn(trimmedPartitions))}
	t.mutex.Lock()
	before := (t.start[at] + t.end[at]) / 2
	t.mutex.Unlock()
	var offsets kadm.Offsets
	offsets.Add(kadm.Offset{Topic: at.topic, Partition: at.partition, At: before})
	limit, cancel := limited(ctx)
	defer cancel()
	deleted, err := admin.DeleteRecords(limit, offsets)
	if err == nil {
		err = deleted.Error()
	}
	if err != nil {
		t.sum.count("cuts refused or unanswered", 1)
		return
	}
	t.sum.count("cuts", 1)
	t.mutex.Lock()
	t.start[at] = max(t.start[at], before)
	t.mutex.Unlock()
}

func (t *trimmed) check(ctx context.Context, admin *kadm.Client) error {
	t.mutex.Lock()
	starts, ends := map[log]int64{}, map[log]int64{}
	for at, end := range t.end {
		starts[at], ends[at] = t.start[at], end
	}
	t.mutex.Unlock()
	if len(ends) == 0 {
		return nil
	}
	limit, cancel := limited(ctx)
	defer cancel()
	first, err := admin.ListStartOffsets(limit, shortTopic, cutTopic)
	if err == nil {
		err = first.Error()
	}
	if err != nil {
		return err
	}
	last, err := admin.ListEndOffsets(limit, shortTopic, cutTopic)
	if err == nil {
		err = last.Error()
	}
	if err != nil {
		return err
	}
	for at, end := range ends {
		from, _ := first.Lookup(at.topic, at.partition)
		to, _ := last.Lookup(at.topic, at.partition)
		if from.Offset < starts[at] {
			t.sum.violation("log start gone back", "%v: %d, was %d", at, from.Offset, starts[at])
		}
		if to.Offset < end {
			t.sum.violation("log end gone back", "%v: %d, %d was acknowledged", at, to.Offset, end-1)
		}
		t.mutex.Lock()
		t.start[at] = max(t.start[at], from.Offset)
		t.mutex.Unlock()
	}
	return nil
}

// readBack reads all that is left and compares it with what was acknowledged there.
func (t *trimmed) readBack(ctx context.Context) {
	time.Sleep(settled)
	client := connect(t.bootstrap, kgo.ConsumeTopics(shortTopic, cutTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	defer client.Close()
	next := map[log]int64{}
	missing := func() bool {
		for at, end := range t.end {
			if next[at] < end {
				return true
			}
		}
		return false
	}
	for missing() && ctx.Err() == nil {
		client.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			at := log{r.Topic, r.Partition}
			if before, known := next[at]; known && r.Offset != before {
				t.sum.violation("gap in a log", "%v: %d follows %d", at, r.Offset, before-1)
			}
			next[at] = r.Offset + 1
			if sum, known := t.acked[at][r.Offset]; known && sum != crc32.ChecksumIEEE(r.Value) {
				t.sum.violation("record changed", "%v: %d", at, r.Offset)
			}
			t.sum.count("records read back", 1)
		})
	}
	if missing() {
		t.sum.violation("records lost", "read up to %v, acknowledged up to %v", next, t.end)
	}
	for at, from := range t.start {
		if _, known := next[at]; !known {
			t.sum.violation("records lost", "%v: nothing from %d on", at, from)
		}
	}
}
