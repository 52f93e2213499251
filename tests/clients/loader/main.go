// loader sends a data set, one record per line, over and over until SIGTERM, and writes down every acknowledgement.
//
// Two producers take turns of 1024 lines: topic "all" is written idempotently with acks=all and franz-go's default compression, topic "one" with
// acks=1, without idempotence and uncompressed. Line number seq goes to partition seq mod partitions, with the number as the key, so that
// within a partition numbers and offsets must rise together.
//
// DIR/<topic>-<partition>.acks holds, for each acknowledgement in the order it came, 32 little-endian bytes: offset, seq (8 each), CRC-32 and length
// of the value (4 each), and the time since the start in microseconds (8).
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const turn = 1024

type partition struct {
	sync.Mutex
	file *bufio.Writer
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	bootstrap := flag.String("bootstrap", "", "broker")
	data := flag.String("data", "", "file of lines")
	dir := flag.String("dir", "", "where the acknowledgements go")
	partitions := flag.Int("partitions", 12, "partitions of each topic")
	rate := flag.Float64("rate", 0, "MB/s, 0 = as fast as it goes")
	flag.Parse()
	start := time.Now()

	content, err := os.ReadFile(*data)
	check(err)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()

	common := []kgo.Opt{
		kgo.SeedBrokers(*bootstrap), kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.UnknownTopicRetries(-1),
		kgo.MaxBufferedRecords(60000), kgo.MetadataMinAge(250 * time.Millisecond),
		kgo.RetryBackoffFn(func(int) time.Duration { return 100 * time.Millisecond }),
	}
	all, err := kgo.NewClient(append(common, kgo.RequiredAcks(kgo.AllISRAcks()))...)
	check(err)
	one, err := kgo.NewClient(append(common, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite(),
		kgo.MaxProduceRequestsInflightPerBroker(1), kgo.ProducerBatchCompression(kgo.NoCompression()))...)
	check(err)

	topics := [2]string{"all", "one"}
	clients := [2]*kgo.Client{all, one}
	var files [2][]*partition
	var toFlush []*partition
	for t, name := range topics {
		for p := 0; p < *partitions; p++ {
			f, err := os.Create(fmt.Sprintf("%s/%s-%d.acks", *dir, name, p))
			check(err)
			part := &partition{file: bufio.NewWriterSize(f, 1<<16)}
			files[t] = append(files[t], part)
			toFlush = append(toFlush, part)
		}
	}
	var acked, failed atomic.Int64
	finished := make(chan struct{})
	go func() { // what the harness watches: acknowledgements so far, on disk
		for {
			select {
			case <-finished:
				return
			case <-time.After(50 * time.Millisecond):
				os.WriteFile(*dir+"/progress.new", []byte(fmt.Sprint(acked.Load())), 0o644)
				os.Rename(*dir+"/progress.new", *dir+"/progress")
			}
		}
	}()

	var seq, bytesSent int64
	rest := content
	for ctx.Err() == nil {
		if len(rest) == 0 {
			rest = content
		}
		end := bytes.IndexByte(rest, '\n')
		line := rest[:end]
		rest = rest[end+1:]
		t := (seq / turn) % 2
		key := make([]byte, 8)
		binary.BigEndian.PutUint64(key, uint64(seq))
		number, part := seq, files[t][seq%int64(*partitions)]
		record := &kgo.Record{Topic: topics[t], Partition: int32(seq % int64(*partitions)), Key: key, Value: line}
		clients[t].Produce(context.Background(), record, func(r *kgo.Record, err error) {
			if err != nil {
				if failed.Add(1) <= 10 {
					fmt.Fprintf(os.Stderr, "%s/%d seq %d: %v\n", r.Topic, r.Partition, number, err)
				}
				return
			}
			var entry [32]byte
			binary.LittleEndian.PutUint64(entry[0:], uint64(r.Offset))
			binary.LittleEndian.PutUint64(entry[8:], uint64(number))
			binary.LittleEndian.PutUint32(entry[16:], crc32.ChecksumIEEE(line))
			binary.LittleEndian.PutUint32(entry[20:], uint32(len(line)))
			binary.LittleEndian.PutUint64(entry[24:], uint64(time.Since(start).Microseconds()))
			part.Lock()
			part.file.Write(entry[:])
			part.Unlock()
			acked.Add(1)
		})
		seq++
		bytesSent += int64(len(line))
		if *rate > 0 && seq%256 == 0 {
			due := start.Add(time.Duration(float64(bytesSent) / (*rate * 1e6) * float64(time.Second)))
			if wait := time.Until(due); wait > time.Millisecond {
				time.Sleep(wait)
			} else if wait < -time.Second { // do not make up for what the broker's absence cost
				start = start.Add(-wait)
			}
		}
	}
	check(all.Flush(context.Background()))
	check(one.Flush(context.Background()))
	for _, part := range toFlush {
		check(part.file.Flush())
	}
	close(finished)
	json.NewEncoder(os.Stdout).Encode(map[string]int64{"sent": seq, "acked": acked.Load(), "failed": failed.Load(), "bytes": bytesSent})
}
