//! Everything at once, for minutes: real Kafka of two versions, Kafka's own VerifiableProducer writing,
//! each client and each order, and every kind of fault in a seeded order. What one fault does to mb is
//! in the `faults` files.
//!
//! `MB_SOAK_MINUTES` (45 seconds without it) says how long, `MB_SOAK_SEED` which order of faults.

mod collected;
mod fault;
mod oracle;
mod phase;
mod verifiable;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use self::fault::{ALL, Deck, Fault};
use self::oracle::Figures;
use self::phase::Phase;
use self::verifiable::lock;
use crate::support::faults::RECOVERY;
use crate::support::kafka::{Kafka, V3_9, V4_4};
use crate::support::proxy::Proxy;

/// Which versions, each with which client; they go side by side.
const LANES: [(&str, &str); 3] = [(V3_9, "kafka"), (V3_9, "rdkafka"), (V4_4, "rdkafka")];
/// One after another, each lane beginning with another one.
const ORDERS: [&str; 3] = ["none", "partition", "key"];
/// The form for CI: how long it takes, and the order of its faults.
const SHORT_FORM: Duration = Duration::from_secs(45);
const SHORT_SEED: u64 = 3;
/// From so long on, each kind of fault must have come at least once.
const TIME_FOR_EVERY_FAULT: Duration = Duration::from_secs(180);
/// What a phase's end takes of its time.
const ENDING: Duration = Duration::from_secs(8);

/// A broker, the proxy that mb comes by, and the client that it uses.
pub struct Lane {
    pub kafka: Kafka,
    pub proxy: Proxy,
    pub client: &'static str,
}

/// What all lanes have seen by now.
#[derive(Debug, Default)]
pub struct Tally {
    pub faults: BTreeMap<Fault, u64>,
    pub broker_kills: u64,
    pub mb_kills: u64,
    /// Without progress after a fault had ended, and where that was.
    pub longest: (Duration, String),
    pub figures: Figures,
    /// What the proxies did, in their own words.
    pub harmed: BTreeMap<&'static str, u64>,
    /// A lane has failed; the others need not go on.
    pub failed: bool,
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name}: got {value}, expected a number")))
}

#[test]
fn soak_nothing_acknowledged_is_lost_whatever_happens() {
    let long = number("MB_SOAK_MINUTES").map(|minutes| Duration::from_secs(60 * minutes.max(1)));
    // The short form is for changes of mb, and the same each time; the long one looks further.
    let any = || if long.is_some() { fastrand::u64(..1_000_000) } else { SHORT_SEED };
    let seed = number("MB_SOAK_SEED").unwrap_or_else(any);
    let (began, time) = (Instant::now(), long.unwrap_or(SHORT_FORM));
    println!("soak: MB_SOAK_SEED={seed}, for {time:?}");
    let tally = Mutex::<Tally>::default();
    thread::scope(|scope| {
        let lanes = 0..LANES.len();
        let tally = &tally;
        let lanes: Vec<_> =
            lanes.map(|lane| scope.spawn(move || soak(lane, seed, time, tally))).collect();
        for lane in lanes {
            if let Err(panic) = lane.join() {
                eprintln!("the soak of {time:?} failed; to run it again: MB_SOAK_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    });
    let tally = tally.into_inner().expect("no lane panicked");
    print(&tally, seed, began.elapsed());
    assert_eq!(tally.figures.found, tally.figures.acknowledged, "acknowledged = processed");
    assert!(tally.figures.acknowledged > 1000, "{}", tally.figures.acknowledged);
    assert!(tally.longest.0 <= RECOVERY, "{:?}", tally.longest);
    if time >= TIME_FOR_EVERY_FAULT {
        let missing: Vec<_> = ALL.iter().filter(|f| !tally.faults.contains_key(f)).collect();
        assert!(missing.is_empty(), "no time for {missing:?}");
    }
}

/// A lane's phases, one for each order, in its share of the time.
fn soak(number: usize, seed: u64, time: Duration, tally: &Mutex<Tally>) {
    /// Tells the other lanes.
    struct Failure<'a>(&'a Mutex<Tally>);
    impl Drop for Failure<'_> {
        fn drop(&mut self) {
            if thread::panicking() {
                lock(self.0).failed = true;
            }
        }
    }
    let _failure = Failure(tally);
    let (version, client) = LANES[number];
    let proxies = [Proxy::start_without_broker(seed ^ number as u64)];
    let kafka = Kafka::start_behind(&proxies, version, &[]);
    let [proxy] = proxies;
    let lane = Lane { kafka, proxy, client };
    let mut deck = Deck::new(seed, number, LANES.len());
    let began = Instant::now();
    for phase in 0..ORDERS.len() {
        if lock(tally).failed {
            return;
        }
        let order = ORDERS[(number + phase) % ORDERS.len()];
        let share = time / ORDERS.len() as u32;
        let until = began + share * (phase as u32 + 1) - ENDING;
        // Seeds that have nothing to do with one another.
        let own =
            fastrand::Rng::with_seed(seed + 1_000_000 * (3 * number + phase + 1) as u64).u64(..);
        let figures = Phase::start(&lane, order, own, share).run(&mut deck, until, tally);
        lock(tally).figures.add(&figures);
    }
    let mut tally = lock(tally);
    for (name, count) in lane.proxy.counts().faults {
        *tally.harmed.entry(name).or_default() += count;
    }
}

fn print(tally: &Tally, seed: u64, took: Duration) {
    let Tally { faults, broker_kills, mb_kills, longest, figures, harmed, .. } = tally;
    println!("soak, seed {seed}, {} s:", took.as_secs());
    println!(
        "  messages: {} acknowledged, {} of them processed, lost {}; {} processed in all, in {} runs",
        figures.acknowledged,
        figures.found,
        figures.acknowledged - figures.found,
        figures.processed,
        figures.runs
    );
    println!("  not acknowledged: {}", figures.refused);
    println!("  faults: {}", faults.values().sum::<u64>());
    for (fault, count) in faults {
        println!("    {fault:?}: {count}");
    }
    println!("  what the proxies did: {harmed:?}");
    println!("  kills: {mb_kills} of mb, {broker_kills} of a broker");
    println!("  duplicates: {}; batches split: {}", figures.duplicates, figures.splits);
    println!("  longest without progress after a fault: {:.1?} ({})", longest.0, longest.1);
}
