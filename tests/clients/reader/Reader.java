// Reads topics "all" and "one" from the beginning by assigned partitions and writes down what it sees.
//
//   Reader final BOOTSTRAP PARTITIONS DIR     up to the end as it was at the start
//   Reader follow BOOTSTRAP PARTITIONS DIR    until SIGTERM, over restarts of the broker
//
// DIR/<topic>-<partition>.read holds 24 little-endian bytes for each record: offset, seq from the key (8 each), CRC-32 and length of the value (4 each).
// A position that the broker no longer has (it gave out records that it then lost) is a line "OUT_OF_RANGE ..." on standard output; the last
// line of a run that ended as it should is "ENDED".
import java.io.BufferedOutputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.zip.CRC32;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.RetriableException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class Reader {
    static volatile boolean stopped;

    public static void main(String[] args) throws Exception {
        boolean follow = args[0].equals("follow");
        Map<String, Object> config = Map.of("bootstrap.servers", args[1], "auto.offset.reset", "none", "enable.auto.commit", false,
            "default.api.timeout.ms", 120000, "max.poll.records", 20000, "metadata.max.age.ms", 5000, "fetch.max.wait.ms", 100,
            "reconnect.backoff.max.ms", 200);
        List<TopicPartition> partitions = new ArrayList<>();
        Map<TopicPartition, OutputStream> files = new HashMap<>();
        for (String topic : List.of("all", "one")) {
            for (int p = 0; p < Integer.parseInt(args[2]); p++) {
                TopicPartition partition = new TopicPartition(topic, p);
                partitions.add(partition);
                files.put(partition, new BufferedOutputStream(new FileOutputStream(Path.of(args[3], topic + "-" + p + ".read").toFile()), 1 << 18));
            }
        }
        CountDownLatch closed = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            stopped = true;
            try {
                closed.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        try (KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.assign(partitions);
            for (TopicPartition partition : partitions) {
                consumer.seek(partition, 0);
            }
            Map<TopicPartition, Long> ends = follow ? Map.of() : consumer.endOffsets(partitions);
            long left = ends.values().stream().mapToLong(Long::longValue).sum();
            while (follow ? !stopped : left > 0) {
                left -= poll(consumer, files, ends);
            }
            System.out.println("ENDED");
        } finally {
            for (OutputStream file : files.values()) {
                file.close();
            }
            System.out.flush();
            closed.countDown();
        }
    }

    static long poll(KafkaConsumer<byte[], byte[]> consumer, Map<TopicPartition, OutputStream> files, Map<TopicPartition, Long> ends) throws IOException {
        ConsumerRecords<byte[], byte[]> records;
        try {
            records = consumer.poll(Duration.ofMillis(200));
        } catch (OffsetOutOfRangeException gone) {
            for (TopicPartition partition : gone.partitions()) {
                System.out.println("OUT_OF_RANGE " + partition + ": " + gone.getMessage());
            }
            consumer.seekToEnd(gone.partitions());
            return 0;
        } catch (RetriableException transientError) {
            return 0;
        }
        ByteBuffer entry = ByteBuffer.allocate(24).order(ByteOrder.LITTLE_ENDIAN);
        CRC32 crc = new CRC32();
        long counted = 0;
        for (TopicPartition partition : records.partitions()) {
            OutputStream file = files.get(partition);
            long end = ends.getOrDefault(partition, Long.MAX_VALUE);
            for (ConsumerRecord<byte[], byte[]> record : records.records(partition)) {
                crc.reset();
                crc.update(record.value());
                entry.clear();
                entry.putLong(record.offset()).putLong(ByteBuffer.wrap(record.key()).getLong()).putInt((int) crc.getValue()).putInt(record.value().length);
                file.write(entry.array());
                if (record.offset() < end) {
                    counted++;
                }
            }
        }
        return counted;
    }
}
