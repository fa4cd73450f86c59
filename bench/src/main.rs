//! `mb-bench`: runs the workloads and prints how the contenders compare.

fn main() {}
