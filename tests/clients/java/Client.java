// kafka-clients (Java). Commands and formats: ../README.md.
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Future;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.errors.WakeupException;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public class Client {
    static final ObjectMapper JSON = new ObjectMapper();
    static final PrintStream OUT = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false);

    static byte[] raw(JsonNode node) throws IOException {
        return node == null || node.isNull() ? null : node.binaryValue();
    }

    static String show(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode out = JSON.createObjectNode();
        out.put("topic", record.topic()).put("p", record.partition()).put("o", record.offset()).put("t", record.timestamp());
        out.put("k", record.key()).put("v", record.value());
        ArrayNode headers = out.putArray("h");
        for (Header header : record.headers()) {
            headers.addArray().add(header.key()).add(header.value());
        }
        return out.toString();
    }

    static void produce(String bootstrap, String topic, String codec) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("compression.type", codec);
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
            BufferedReader in = new BufferedReader(new InputStreamReader(System.in));
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (String line = in.readLine(); line != null; line = in.readLine()) {
                JsonNode record = JSON.readTree(line);
                JsonNode time = record.get("t");
                Long timestamp = time == null || time.isNull() ? null : time.longValue();
                ProducerRecord<byte[], byte[]> message = new ProducerRecord<>(topic, null, timestamp, raw(record.get("k")), raw(record.get("v")));
                for (JsonNode header : record.get("h")) {
                    message.headers().add(header.get(0).textValue(), raw(header.get(1)));
                }
                sent.add(producer.send(message));
            }
            for (int i = 0; i < sent.size(); i++) {
                RecordMetadata meta = sent.get(i).get();
                OUT.println("{\"i\": " + i + ", \"p\": " + meta.partition() + ", \"o\": " + meta.offset() + "}");
            }
        }
    }

    static KafkaConsumer<byte[], byte[]> member(String bootstrap, String topics, String group) {
        KafkaConsumer<byte[], byte[]> consumer = new KafkaConsumer<>(
            Map.of("bootstrap.servers", bootstrap, "group.id", group, "auto.offset.reset", "earliest"),
            new ByteArrayDeserializer(), new ByteArrayDeserializer());
        consumer.subscribe(List.of(topics.split(",")));
        return consumer;
    }

    static void consume(String bootstrap, String topics, String group, int count) {
        try (KafkaConsumer<byte[], byte[]> consumer = member(bootstrap, topics, group)) {
            for (int left = count; left > 0; ) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofSeconds(1))) {
                    if (left > 0) {
                        OUT.println(show(record));
                        left--;
                    }
                }
            }
        }
    }

    static void worker(String bootstrap, String topic, String group) {
        KafkaConsumer<byte[], byte[]> consumer = member(bootstrap, topic, group);
        CountDownLatch closed = new CountDownLatch(1);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            consumer.wakeup();
            try {
                closed.await();
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
            }
        }));
        try {
            while (true) {
                for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(200))) {
                    OUT.println(show(record));
                }
                OUT.flush();
            }
        } catch (WakeupException stop) {
            OUT.flush();
        } finally {
            consumer.close();
            closed.countDown();
        }
    }

    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "produce" -> produce(args[1], args[2], args[3]);
            case "consume" -> consume(args[1], args[2], args[3], Integer.parseInt(args[4]));
            case "worker" -> worker(args[1], args[2], args[3]);
            default -> throw new IllegalArgumentException(args[0]);
        }
        OUT.flush();
    }
}
