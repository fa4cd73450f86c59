// What mb's words mean, one text for each. Values only: `words.js` shows them, and a test holds them against
// the list in docs/README.md.

export const TEXTS = {
  topic: 'as in Kafka: a log of records, in partitions',
  partition: 'as in Kafka: a part of a topic, in which each record has a number, its offset',
  lag: 'how many records of a partition wait to be processed: the end of its log minus the committed offset',
  latency: 'how long a record takes from its timestamp to the end of the run that processed it',
  sensor: 'the thread that reads the topic',
  tick: 'one round of the sensor: a fresh consumer reads for --tick-runtime, then --tick-interval passes',
  cursor: 'the offset that the sensor reads next, per partition; it moves on with each tick, ahead of the committed offset',
  batch: 'consecutive records of one partition, up to --max-batch and --max-batch-bytes',
  run: 'the tracked processing of one batch',
  'run key': 'the run\'s name, TOPIC/PARTITION/FIRST-LAST; the same at every attempt and after a crash',
  'run queue': 'bounded queue between sensors and workers',
  worker: 'a thread that takes runs from the run queue and processes them, one at a time; there are --max-concurrent-runs of them',
  step: 'what a run does with its batch',
  attempt: 'one try of a run\'s step',
  lane: 'with --order key: the runs that follow one another, because they share keys',
  'committed offset': 'the offset that the group has in Kafka, per partition: every record below it is done',
  'offset ledger': 'per partition, which offsets are done; its lowest offset not yet done is committed',
  verdict: 'whether mb keeps up, and if not, why: one line, the same on the page, in mb status, /readyz, the metrics and the log',
  hold: 'while the step fails for every run: nothing is given up on, and one run at a time tries the step',
  'dead letter': 'a record that was given up on, kept with its payload',
  redrive: 'processing dead letters again, in new runs',
  replay: 'processing a range of the log again, in new runs',
  history: 'the SQLite file with runs, attempts and dead letters',
};
