//! One phase: a topic that VerifiableProducer writes, mb at work on it with one client and one order,
//! one fault after another, and the oracle at the end.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use mb::config::limits::BROKER_CALL_LIMIT;
use rustix::process::Signal;
use tempfile::TempDir;

use super::collected::Collected;
use super::fault::{Deck, Fault};
use super::oracle::{Figures, WallClock, judge};
use super::verifiable::{Verifiable, lock};
use super::{Lane, Tally};
use crate::support::disk::SmallDisk;
use crate::support::faults::{PARTITIONS, RECOVERY, Watch, create_topic, no_panic};
use crate::support::mb::Mb;
use crate::support::proxy::Mode;
use crate::support::{eventually, raw, unique};

const LIMIT: Duration = Duration::from_secs(120);
/// Between two looks at what is done.
const PAUSE: Duration = Duration::from_millis(50);
/// A producer that has nothing acknowledged for so long is broken.
const PRODUCER_LIMIT: Duration = Duration::from_secs(90);
const MESSAGES_PER_SECOND: u64 = 300;
const KEYS: u64 = 50;
const LARGE_BYTES: usize = 10_000;
const LARGE_RECORDS: u64 = 40;
/// Room for the files of a minute, each of which takes a page or two.
const MEGABYTES_PER_MINUTE: u64 = 24;

pub struct Phase<'a> {
    lane: &'a Lane,
    order: &'static str,
    random: fastrand::Rng,
    server: String,
    topic: String,
    group: String,
    disk: SmallDisk,
    out: PathBuf,
    _own_out: Option<TempDir>,
    /// Instead of `--step files`.
    command: Option<String>,
    collected: Arc<Mutex<Collected>>,
    clock: Arc<Mutex<WallClock>>,
    watch: Option<Watch>,
    producer: Option<Verifiable>,
    mb: Option<Mb>,
    /// When the proxy healed last: a request that it swallowed before is waited for until its time limit.
    healed: Instant,
    doing: String,
}

impl<'a> Phase<'a> {
    pub fn start(lane: &'a Lane, order: &'static str, seed: u64, time: Duration) -> Phase<'a> {
        let server = lane.kafka.bootstrap();
        let (topic, group) = (unique("soak"), unique("group"));
        create_topic(&server, &topic, PARTITIONS);
        let disk = SmallDisk::new((time.as_secs() / 60 + 1) * MEGABYTES_PER_MINUTE);
        // A command fails where it has no room, so what it writes is elsewhere.
        let own_out = (order == "none").then(|| tempfile::tempdir().unwrap());
        let out = own_out.as_ref().map_or(disk.path().join("out"), |dir| dir.path().to_owned());
        for partition in 0..PARTITIONS {
            fs::create_dir_all(out.join(&topic).join(partition.to_string())).unwrap();
        }
        let command = own_out.is_some().then(|| failing_command(&out));
        let collected = Arc::new(Mutex::new(Collected::new(&out, &topic)));
        let clock = Arc::new(Mutex::new(WallClock::start()));
        let (its, its_clock) = (Arc::clone(&collected), Arc::clone(&clock));
        let watch = Watch::start(&server, &group, &topic, move || {
            lock(&its_clock).look();
            let mut collected = lock(&its);
            collected.look();
            (0..PARTITIONS).map(|at| (at, collected.done_up_to(at))).collect()
        });
        let producer = Verifiable::start(&lane.kafka, &topic, MESSAGES_PER_SECOND, KEYS);
        let mut phase = Phase {
            lane,
            order,
            random: fastrand::Rng::with_seed(seed),
            server,
            topic,
            group,
            disk,
            out,
            _own_out: own_out,
            command,
            collected,
            clock,
            watch: Some(watch),
            producer: Some(producer),
            mb: None,
            healed: Instant::now(),
            doing: "start".to_owned(),
        };
        phase.start_mb(&[]);
        phase
    }

    /// One fault after another until then, and the oracle.
    pub fn run(mut self, deck: &mut Deck, until: Instant, tally: &Mutex<Tally>) -> Figures {
        self.wait_for_progress();
        while Instant::now() < until && !lock(tally).failed {
            let fault = deck.next();
            self.doing = format!("{fault:?}");
            let began = Instant::now();
            self.inflict(fault, tally);
            let lasted = began.elapsed();
            let waited = self.wait_for_progress();
            println!(
                "{}: {fault:?} of {lasted:.1?}, progress {waited:.1?} after its end",
                self.name()
            );
            let mut tally = lock(tally);
            *tally.faults.entry(fault).or_default() += 1;
            if waited > tally.longest.0 {
                tally.longest = (waited, format!("{fault:?}, {}", self.name()));
            }
            drop(tally);
            thread::sleep(self.millis(200..2000));
        }
        self.finish()
    }

    fn name(&self) -> String {
        let Lane { kafka, client, .. } = self.lane;
        format!("{} {client} {}", kafka.version(), self.order)
    }

    fn millis(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.random.u64(range))
    }

    /// How long a fault lasts: most are short, some outlast the limits of calls.
    fn duration(&mut self) -> Duration {
        if self.random.u8(0..8) == 0 { self.millis(4000..15_000) } else { self.millis(300..4000) }
    }

    /// With other limits at each start.
    fn start_mb(&mut self, more: &[&str]) {
        let random = &mut self.random;
        let batch = random.u32(10..60).to_string();
        let (workers, sensors) = (random.u32(1..8).to_string(), random.u32(1..3).to_string());
        let lanes = random.u32(1..7).to_string();
        let tick = ["300ms", "1", "10"][random.usize(0..3)];
        let bisect = random.bool() || self.command.is_some();
        let (server, out) =
            (self.lane.proxy.address(), self.out.to_str().expect("UTF-8").to_owned());
        let mut flags = vec!["--bootstrap-server", &server, "--topic", &self.topic];
        flags.extend(["--group", &self.group, "--client", self.lane.client, "--listen", "off"]);
        flags.extend(["--order", self.order, "--max-batch", &batch, "--max-wait", "500ms"]);
        flags.extend(["--max-concurrent-runs", &workers, "--sensors", &sensors]);
        flags.extend(["--tick-runtime", tick, "--tick-interval", "100ms"]);
        flags.extend([
            "--max-attempts",
            "2",
            "--retry-backoff",
            "100ms",
            "--outage-patience",
            "1s",
        ]);
        if self.order == "key" {
            flags.extend(["--lanes", &lanes]);
        }
        if bisect {
            flags.push("--bisect");
        }
        match &self.command {
            Some(command) => flags.extend(["--exec", command]),
            None => flags.extend(["--step", "files", "--out", &out]),
        }
        flags.extend(more);
        self.mb = Some(Mb::start_in(&self.disk.path().join("data"), &flags));
    }

    fn mb(&mut self) -> &mut Mb {
        self.mb.as_mut().expect("mb was started")
    }

    fn inflict(&mut self, fault: Fault, tally: &Mutex<Tally>) {
        let time = self.duration();
        let lane = self.lane;
        if let Some(mode) = fault.mode(&mut self.random) {
            if fault == Fault::Flip {
                // Only large answers are harmed.
                lane.proxy.set(Mode::Refuse);
                self.write_large();
            }
            lane.proxy.set(mode);
            thread::sleep(time);
            lane.proxy.heal();
            self.healed = Instant::now();
            return;
        }
        match fault {
            Fault::BrokerFrozen => {
                lane.kafka.stop_cont(true);
                thread::sleep(time);
                lane.kafka.stop_cont(false);
            }
            Fault::BrokerKilled | Fault::BrokerStopped => {
                if fault == Fault::BrokerKilled {
                    lane.kafka.kill9();
                    lock(tally).broker_kills += 1;
                } else {
                    lane.kafka.term();
                }
                thread::sleep(time / 2);
                lane.kafka.restart();
            }
            Fault::MbFrozen => {
                self.mb().signal(Signal::STOP);
                thread::sleep(time);
                self.mb().signal(Signal::CONT);
            }
            Fault::MbKilled => {
                let mut kills = 1;
                self.kill_mb();
                // Again while it starts.
                while self.random.u8(0..3) == 0 {
                    self.start_mb(&[]);
                    thread::sleep(self.millis(0..700));
                    self.kill_mb();
                    kills += 1;
                }
                lock(tally).mb_kills += kills;
                thread::sleep(time / 4);
                self.start_mb(&[]);
            }
            Fault::MbStopped => {
                self.stop_mb();
                thread::sleep(time / 4);
                self.start_mb(&[]);
            }
            Fault::DiskFull => {
                let ballast = self.disk.fill_up(self.random.usize(0..100_000));
                thread::sleep(time);
                fs::remove_file(ballast).unwrap();
            }
            _ => unreachable!("the others are the proxy's"),
        }
    }

    /// Some hundred kilobytes to each partition, beside the producer.
    fn write_large(&mut self) {
        for partition in 0..PARTITIONS {
            let pair = |n: u64| {
                let value = vec![self.random.alphanumeric() as u8; LARGE_BYTES];
                (Some((n % KEYS).to_string().into_bytes()), Some(value))
            };
            let pairs: Vec<_> = (0..LARGE_RECORDS).map(pair).collect();
            raw::produce_pairs(&self.server, "none", &self.topic, partition, &pairs);
        }
    }

    fn kill_mb(&mut self) {
        let mut mb = self.mb.take().expect("mb was started");
        mb.kill9();
        no_panic(&mb);
    }

    /// If the last request to the broker was swallowed, a stop does not wait for its whole time limit: mb says that
    /// its last offsets are not committed, and the next start skips what is done.
    fn stop_mb(&mut self) {
        let is_swallowed = self.healed.elapsed() < BROKER_CALL_LIMIT;
        self.mb().term();
        let status = self.mb().wait(Duration::from_secs(40));
        let mb = self.mb.take().expect("mb was started");
        let said = mb.stderr().join("\n");
        let is_open = is_swallowed
            && said.ends_with("the broker did not answer in time")
            && said.contains("cannot commit the last offsets (nothing is lost");
        assert_eq!(status.code(), Some(i32::from(is_open)), "{said}");
        no_panic(&mb);
    }

    fn wait_for_mb(&mut self, limit: Duration) {
        let status = self.mb().wait(limit);
        let mb = self.mb.take().expect("mb was started");
        assert_eq!(status.code(), Some(0), "{}", mb.stderr().join("\n"));
        no_panic(&mb);
    }

    /// Waits until something more is done; returns how long there was work and nothing was done.
    fn wait_for_progress(&mut self) -> Duration {
        let began = Instant::now();
        let mut since = began;
        let mut before = None;
        loop {
            let acknowledged = self.producer.as_ref().map_or(0, Verifiable::acknowledged);
            let done = {
                let mut collected = lock(&self.collected);
                collected.look();
                collected.done
            };
            if done > *before.get_or_insert(done) {
                return since.elapsed();
            }
            if self.watch.as_ref().is_some_and(Watch::has_ended) {
                self.watch.take().expect("it is there").stop();
            }
            if acknowledged <= done {
                since = Instant::now();
            }
            let ended = self.mb().try_wait();
            assert!(ended.is_none(), "mb ended by itself, {ended:?}");
            assert!(
                since.elapsed() <= RECOVERY,
                "no progress within {RECOVERY:?}: {done} done, {acknowledged} acknowledged"
            );
            assert!(began.elapsed() <= PRODUCER_LIMIT, "the producer makes no progress");
            thread::sleep(PAUSE);
        }
    }

    fn finish(mut self) -> Figures {
        self.doing = "the end".to_owned();
        let said = self.producer.take().expect("it runs until now").stop();
        self.stop_mb();
        self.start_mb(&["--until-caught-up"]);
        self.wait_for_mb(LIMIT);
        let ends: Vec<_> = raw::watermarks(&self.server, &self.topic)
            .into_iter()
            .map(|(partition, (_, end))| (partition, end))
            .collect();
        eventually(RECOVERY, "all is committed", || {
            raw::committed(&self.server, &self.group, &self.topic).into_iter().eq(ends.clone())
        });
        lock(&self.collected).look();
        let in_log = raw::read_all(&self.server, &self.topic);
        let data_dir = self.disk.path().join("data");
        let figures = judge(
            &lock(&self.collected),
            &said,
            &in_log,
            self.order,
            &data_dir,
            &lock(&self.clock),
        );
        println!(
            "{}: {figures:?}, wall clock off by {} ms",
            self.name(),
            lock(&self.clock).spread_ms()
        );
        self.watch.take().expect("stopped once").stop();
        figures
    }
}

impl Drop for Phase<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the failure was in {}, at {}", self.name(), self.doing);
            // Before its disk goes, so that the end of its log is about the failure.
            self.mb = None;
        }
    }
}

/// Keeps each run as `--step files` does, but fails where records of certain offsets are not alone.
/// Where mb is killed its input ends early, so it looks whether all of it came.
fn failing_command(out: &std::path::Path) -> String {
    let out = out.display();
    format!(
        "set -e; cat >{out}/.$$; \
         if [ $(wc -l <{out}/.$$) -ne $MB_RECORDS ]; then rm {out}/.$$; echo cut off >&2; exit 1; fi; \
         if [ $(wc -l <{out}/.$$) -gt 1 ] && grep -q '\"offset\":[0-9]*[05]00,' {out}/.$$; \
         then rm {out}/.$$; echo indigestible >&2; exit 1; fi; \
         mv {out}/.$$ {out}/$MB_RUN_KEY.ndjson"
    )
}
