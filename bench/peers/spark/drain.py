"""The bench's Spark Structured Streaming contender.

Reads what is in one topic as micro-batches, counts the records and does nothing else with them. What it is given and
what it prints is in bench/README.md, and why it is set up as it is. Run by spark-submit, as bench/setup writes it.
"""

import argparse
import socket
import sys
import tempfile
from typing import NoReturn

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.functions import coalesce, col, count, length, lit, sum as sum_of
from pyspark.sql.streaming import StreamingQuery

# Spark itself would ask three times, a minute each.
LONGEST_WAIT_S = 10


class Seen:
    """Counts a batch by one action, which reads every record's value; the driver gets two numbers."""

    def __init__(self) -> None:
        self.records = 0
        self.bytes = 0

    def add(self, batch: DataFrame, _number: int) -> None:
        row = batch.agg(count(lit(1)), coalesce(sum_of(length(col("value"))), lit(0))).first()
        self.records += row[0]
        self.bytes += row[1]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(64, f"spark: {message}\n")


def parse() -> argparse.Namespace:
    parser = Parser(prog="spark", allow_abbrev=False)
    parser.add_argument("--bootstrap-server", required=True, metavar="HOST:PORT")
    parser.add_argument("--topic", required=True, metavar="NAME")
    parser.add_argument("--count", required=True, type=int, metavar="N", help="records that must be there")
    parser.add_argument("--batch", type=int, default=0, metavar="N", help="records of one batch (0: all in one)")
    return parser.parse_args()


def must_answer(server: str) -> None:
    """Ends here where nobody listens, before Spark's seconds of start."""
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host, int(port)), LONGEST_WAIT_S).close()
    except (OSError, ValueError) as cause:
        sys.exit(f"spark: {server}: {cause}")


def start(session: SparkSession, args: argparse.Namespace, checkpoint: str, seen: Seen) -> StreamingQuery:
    reader = (
        session.readStream.format("kafka")
        .option("kafka.bootstrap.servers", args.bootstrap_server)
        .option("subscribe", args.topic)
        .option("startingOffsets", "earliest")
        .option("kafka.default.api.timeout.ms", LONGEST_WAIT_S * 1000)
        .option("kafka.request.timeout.ms", LONGEST_WAIT_S * 1000)
        .option("fetchOffset.numRetries", 1)
    )
    if args.batch > 0:
        reader = reader.option("maxOffsetsPerTrigger", args.batch)
    writer = reader.load().writeStream.foreachBatch(seen.add)
    return writer.option("checkpointLocation", checkpoint).trigger(availableNow=True).start()


def main() -> None:
    args = parse()
    must_answer(args.bootstrap_server)
    seen = Seen()
    session = SparkSession.builder.appName("bench").getOrCreate()
    with tempfile.TemporaryDirectory(prefix="mb-bench-spark-") as checkpoint:
        try:
            start(session, args, checkpoint, seen).awaitTermination()
        except PySparkException as cause:
            sys.exit(f"spark: {args.bootstrap_server}: {one_line(cause)}")
        finally:
            session.stop()
    if seen.records < args.count:
        sys.exit(f"spark: topic {args.topic} has {seen.records} of {args.count} records")
    print(f'{{"records":{seen.records},"bytes":{seen.bytes}}}')


def one_line(cause: PySparkException) -> str:
    # "[STREAM_FAILED] Query [id = …] terminated with exception: " says nothing to who started it.
    return " ".join(str(cause).split()).rpartition("terminated with exception: ")[2]


if __name__ == "__main__":
    main()
