// franz-go. Commands and formats: ../README.md.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

type record struct {
	Topic string      `json:"topic,omitempty"`
	P     int32       `json:"p"`
	O     int64       `json:"o"`
	T     *int64      `json:"t"`
	K     *[]byte     `json:"k"`
	V     *[]byte     `json:"v"`
	H     [][]*string `json:"h"`
}

var codecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
	"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func client(bootstrap string, options ...kgo.Opt) *kgo.Client {
	cl, err := kgo.NewClient(append(options, kgo.SeedBrokers(bootstrap))...)
	check(err)
	return cl
}

func orNil(data *[]byte) []byte {
	if data == nil {
		return nil
	}
	if *data == nil {
		return []byte{}
	}
	return *data
}

func pointer(data []byte) *[]byte {
	if data == nil {
		return nil
	}
	return &data
}

func produce(bootstrap, topic, codec string) {
	cl := client(bootstrap, kgo.DefaultProduceTopic(topic), kgo.ProducerBatchCompression(codecs[codec]))
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	var out sync.Mutex
	for i := 0; lines.Scan(); i++ {
		var in record
		check(json.Unmarshal(lines.Bytes(), &in))
		r := &kgo.Record{Key: orNil(in.K), Value: orNil(in.V)}
		if in.T != nil {
			r.Timestamp = time.UnixMilli(*in.T)
		}
		for _, h := range in.H {
			r.Headers = append(r.Headers, kgo.RecordHeader{Key: *h[0], Value: unbase64(h[1])})
		}
		cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			check(err)
			out.Lock()
			fmt.Printf("{\"i\": %d, \"p\": %d, \"o\": %d}\n", i, r.Partition, r.Offset)
			out.Unlock()
		})
	}
	check(cl.Flush(context.Background()))
	cl.Close()
}

func unbase64(text *string) []byte {
	if text == nil {
		return nil
	}
	var data []byte
	check(json.Unmarshal([]byte(strconv.Quote(*text)), &data))
	if data == nil {
		data = []byte{}
	}
	return data
}

func show(w *bufio.Writer, r *kgo.Record) {
	t := r.Timestamp.UnixMilli()
	out := record{Topic: r.Topic, P: r.Partition, O: r.Offset, T: &t, K: pointer(r.Key), V: pointer(r.Value), H: [][]*string{}}
	for _, h := range r.Headers {
		name := h.Key
		pair := []*string{&name, nil}
		if h.Value != nil {
			text, _ := json.Marshal(h.Value)
			bare := strings.Trim(string(text), `"`)
			pair[1] = &bare
		}
		out.H = append(out.H, pair)
	}
	line, err := json.Marshal(out)
	check(err)
	w.Write(line)
	w.WriteByte('\n')
}

func consume(bootstrap, topics, group string, limit int, ctx context.Context) {
	cl := client(bootstrap, kgo.ConsumerGroup(group), kgo.ConsumeTopics(strings.Split(topics, ",")...))
	w := bufio.NewWriter(os.Stdout)
	for n := 0; n != limit; {
		fetches := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			break
		}
		fetches.EachError(func(_ string, _ int32, err error) { fmt.Fprintln(os.Stderr, err) })
		fetches.EachRecord(func(r *kgo.Record) {
			if n != limit {
				show(w, r)
				n++
			}
		})
		w.Flush()
	}
	cl.Close()
}

func main() {
	args := os.Args[2:]
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	switch os.Args[1] {
	case "produce":
		produce(args[0], args[1], args[2])
	case "consume":
		limit, err := strconv.Atoi(args[3])
		check(err)
		consume(args[0], args[1], args[2], limit, context.Background())
	case "worker":
		consume(args[0], args[1], args[2], -1, ctx)
	}
}
