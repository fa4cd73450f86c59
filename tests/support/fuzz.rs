//! Fuzzing on stable Rust, within `cargo test`: kept inputs first, then many that are made of them by
//! flipping, cutting, repeating and mixing. `make fuzz` does so for longer, with other seeds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// Inputs beside the kept ones, if `MB_FUZZ_SECONDS` does not say how long.
const INPUTS: usize = 100_000;
const LONGEST_INPUT: usize = 4096;
/// Numbers at which lengths and counts tend to go wrong.
const EDGES: [&[u8]; 8] = [
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0",
];

/// Runs `read` on every file of `tests/corpus/TARGET`, and on inputs made of them.
///
/// # Panics
/// If `read` does, with the path of a file that has the input; a copy of it in the corpus keeps it tested.
pub fn fuzz(target: &str, read: impl Fn(&[u8])) {
    let project = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = read_corpus(&project.join("tests/corpus").join(target));
    assert!(!kept.is_empty(), "tests/corpus/{target} has no inputs to begin with");
    let try_input = |input: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| read(input))) {
            let path = project.join("target").join(format!("fuzz-{target}"));
            fs::write(&path, input).expect("target/ can be written");
            eprintln!("{target}: the input is in {}", path.display());
            resume_unwind(panic);
        }
    };
    kept.iter().for_each(|input| try_input(input));
    let seconds = std::env::var("MB_FUZZ_SECONDS").ok();
    let seconds = seconds.map(|text| text.parse().expect("MB_FUZZ_SECONDS is a number"));
    let seed = if seconds.is_some() { fastrand::u64(..) } else { 7 };
    println!("{target}: {} kept inputs, seed {seed}", kept.len());
    let mut random = Rng::with_seed(seed);
    let began = Instant::now();
    let goes_on = |tried: usize| match seconds {
        Some(seconds) => began.elapsed() < Duration::from_secs(seconds),
        None => tried < INPUTS,
    };
    let mut tried = 0;
    while goes_on(tried) {
        try_input(&changed(&kept, &mut random));
        tried += 1;
    }
    println!("{target}: {tried} inputs in {:.1?}", began.elapsed());
}

fn read_corpus(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    // In the same order on every machine.
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a kept input")).collect()
}

/// One of the kept inputs after a few changes.
fn changed(kept: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input = pick(kept, random).clone();
    for _ in 0..random.usize(1..6) {
        let at = random.usize(0..=input.len());
        let to = random.usize(at..=input.len().min(at + 40));
        match random.u8(0..7) {
            0 => input.truncate(at),
            1 => drop(input.drain(at..to)),
            2 => insert(&mut input, at, EDGES[random.usize(0..EDGES.len())]),
            3 => {
                let edge = EDGES[random.usize(0..EDGES.len())];
                input.splice(at..input.len().min(at + edge.len()), edge.iter().copied());
            }
            4 => {
                let part = input[at..to].to_vec();
                insert(&mut input, at, &part);
            }
            5 => {
                let other = pick(kept, random);
                let from = random.usize(0..=other.len());
                insert(&mut input, at, &other[from..]);
            }
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte ^= 1 << random.u8(0..8);
                }
            }
        }
    }
    input.truncate(LONGEST_INPUT);
    input
}

fn pick<'a>(kept: &'a [Vec<u8>], random: &mut Rng) -> &'a Vec<u8> {
    &kept[random.usize(0..kept.len())]
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    input.splice(at..at, bytes.iter().copied());
}
