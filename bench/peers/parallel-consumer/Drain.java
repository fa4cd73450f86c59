// The bench's Confluent Parallel Consumer contender: reads one topic as a consumer group in batches, counts the
// records and does nothing else with them, and commits. What it is given and what it prints is in bench/README.md,
// and why it is set up as it is.

import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelConsumerOptions.CommitMode;
import io.confluent.parallelconsumer.ParallelConsumerOptions.ProcessingOrder;
import io.confluent.parallelconsumer.ParallelEoSStreamProcessor;
import io.confluent.parallelconsumer.internal.DrainingCloseable.DrainingMode;
import java.time.Duration;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.atomic.LongAdder;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public final class Drain {
    private static final Duration LONGEST_WAIT = Duration.ofSeconds(10);
    private static final Duration LONGEST_CLOSE = Duration.ofSeconds(60);
    private static final long LOOK_EVERY_MS = 5;
    // The client's defaults are 500 and 1 MiB; more of either has it ask the broker less often.
    private static final int MAX_POLL_RECORDS = 5_000;
    private static final int PARTITION_FETCH_BYTES = 4 << 20;

    private record Args(
            String server, String topic, String group, long count, int batch, int concurrency, ProcessingOrder order) {
        private static final Set<String> KNOWN = Set.of(
                "--bootstrap-server", "--topic", "--group", "--count", "--batch", "--concurrency", "--order");

        static Args parse(String[] words) {
            Map<String, String> given = new HashMap<>();
            for (int i = 0; i < words.length; i += 2) {
                if (!KNOWN.contains(words[i])) {
                    throw new IllegalArgumentException("knows no " + words[i]);
                }
                if (i + 1 == words.length) {
                    throw new IllegalArgumentException(words[i] + " needs a value");
                }
                given.put(words[i], words[i + 1]);
            }
            for (String name : KNOWN) {
                if (!given.containsKey(name)) {
                    throw new IllegalArgumentException("needs " + name);
                }
            }
            ProcessingOrder order = switch (given.get("--order")) {
                case "partition" -> ProcessingOrder.PARTITION;
                case "unordered" -> ProcessingOrder.UNORDERED;
                default -> throw new IllegalArgumentException("--order is partition or unordered");
            };
            return new Args(
                    given.get("--bootstrap-server"), given.get("--topic"), given.get("--group"),
                    positive(given, "--count", Long.MAX_VALUE),
                    (int) positive(given, "--batch", Integer.MAX_VALUE),
                    (int) positive(given, "--concurrency", Integer.MAX_VALUE),
                    order);
        }

        private static long positive(Map<String, String> given, String name, long most) {
            try {
                long number = Long.parseLong(given.get(name));
                if (number >= 1 && number <= most) {
                    return number;
                }
            } catch (NumberFormatException cause) {
                // said below
            }
            throw new IllegalArgumentException(name + " is '" + given.get(name) + "', expected a number from 1");
        }
    }

    private static final LongAdder records = new LongAdder();
    private static final LongAdder bytes = new LongAdder();

    public static void main(String[] words) {
        Args args;
        try {
            args = Args.parse(words);
        } catch (IllegalArgumentException cause) {
            end(64, "", cause);
            return;
        }
        try {
            drain(args);
        } catch (Exception cause) {
            end(1, args.server + ": ", cause);
        }
        System.out.printf("{\"records\":%d,\"bytes\":%d}%n", records.sum(), bytes.sum());
        System.exit(0);
    }

    private static void end(int code, String where, Throwable cause) {
        String text = cause.getMessage() == null ? cause.toString() : cause.getMessage();
        if (cause.getCause() != null && cause.getCause().getMessage() != null) {
            text += ": " + cause.getCause().getMessage();
        }
        System.err.printf("parallel-consumer: %s%s%n", where, text.replace('\n', ' '));
        // Threads of the library may still run.
        Runtime.getRuntime().halt(code);
    }

    private static void drain(Args args) throws Exception {
        Map<String, Object> settings = new HashMap<>();
        settings.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, args.server);
        settings.put(ConsumerConfig.GROUP_ID_CONFIG, args.group);
        settings.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "earliest");
        settings.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, false);
        settings.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, false);
        settings.put(ConsumerConfig.KEY_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        settings.put(ConsumerConfig.VALUE_DESERIALIZER_CLASS_CONFIG, ByteArrayDeserializer.class);
        settings.put(ConsumerConfig.MAX_POLL_RECORDS_CONFIG, MAX_POLL_RECORDS);
        settings.put(ConsumerConfig.MAX_PARTITION_FETCH_BYTES_CONFIG, PARTITION_FETCH_BYTES);
        var consumer = new KafkaConsumer<byte[], byte[]>(settings);
        // Parallel Consumer itself would wait for a broker without an end.
        if (consumer.partitionsFor(args.topic, LONGEST_WAIT).isEmpty()) {
            throw new IllegalStateException("there is no topic " + args.topic);
        }

        var options = ParallelConsumerOptions.<byte[], byte[]>builder()
                .consumer(consumer)
                .ordering(args.order)
                .maxConcurrency(args.concurrency)
                .batchSize(args.batch)
                .commitMode(CommitMode.PERIODIC_CONSUMER_ASYNCHRONOUS)
                .build();
        var processor = new ParallelEoSStreamProcessor<>(options);
        processor.subscribe(List.of(args.topic));
        processor.poll(batch -> {
            long size = 0;
            for (var record : batch) {
                size += record.value() == null ? 0 : record.value().length;
            }
            bytes.add(size);
            records.add(batch.size());
        });
        awaitCount(args, processor);
        // What is processed is committed either way. Unordered, what is behind a hole only together with what fills it,
        // so the buffer is worked off too; by partition there are no holes, and a buffer may take minutes.
        processor.close(
                LONGEST_CLOSE,
                args.order == ProcessingOrder.UNORDERED ? DrainingMode.DRAIN : DrainingMode.DONT_DRAIN);
        failed(processor);
    }

    private static void awaitCount(Args args, ParallelEoSStreamProcessor<?, ?> processor) throws Exception {
        long seen = 0;
        long since = System.nanoTime();
        while (seen < args.count) {
            Thread.sleep(LOOK_EVERY_MS);
            long now = records.sum();
            if (now > seen) {
                seen = now;
                since = System.nanoTime();
            } else if (processor.isClosedOrFailed()) {
                failed(processor);
                throw new IllegalStateException("it closed by itself after " + now + " of " + args.count + " records");
            } else if (System.nanoTime() - since > LONGEST_WAIT.toNanos()) {
                throw new IllegalStateException("waited " + LONGEST_WAIT.toSeconds() + " s for a record of topic "
                        + args.topic + ", after " + now + " of " + args.count);
            }
        }
    }

    private static void failed(ParallelEoSStreamProcessor<?, ?> processor) throws Exception {
        if (processor.getFailureCause() != null) {
            throw processor.getFailureCause();
        }
    }
}
