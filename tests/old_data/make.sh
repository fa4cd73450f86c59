#!/usr/bin/env bash
# tests/old_data/make.sh BINARY FOLDER: lets this binary of mb leave data directories, and packs them into FOLDER as
# stopped.tar.gz and killed.tar.gz.
set -euo pipefail

mb=$(realpath "$1")
out=$(realpath "$2")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# mb on the data directory $dir, with the embedded topic orders.
where() { connection=(--client embedded --topic orders --group mb --data-dir "$dir"); }
run() { where && "$mb" "$@" "${connection[@]}"; }

# Produces the records FIRST to LAST, in turn to partitions 0 and 1; records 6, 17 and 30 are bad.
produce() {
    for number in $(seq "$1" "$2"); do
        case $number in 6 | 17 | 30) echo "bad-$number" ;; *) echo "good-$number" ;; esac
    done | run produce - --partitions 2
}

# 40 records are processed, of which three become dead letters: bad-6 is to be redriven, bad-17 is discarded, bad-30
# stays open. Offsets 0 to 4 of partition 1 are to be replayed.
begin() {
    dir=$work/$1
    produce 0 39
    # shellcheck disable=SC2016 # for the shell of --exec
    run --listen off --until-caught-up --max-batch 10 --max-attempts 1 --max-concurrent-runs 1 --bisect \
        --exec 'bad=$(grep -o "bad-[0-9]*" | head -n 1); exit ${bad#bad-}'
    run dead-letters discard --all --error 'exit code 17' --note 'test data'
    run dead-letters redrive --all --error 'exit code 6'
    run replay --partition 1 --from 0 --to 4
}

# Packs the data directory without the lock and the socket, which belong to a process.
pack() { tar -C "$work/$1" --sort=name --owner=0 --group=0 --exclude=mb.lock --exclude='*.sock' -czf "$out/$1.tar.gz" .; }

# Stopped cleanly, with both requests open and 20 records unread.
begin stopped
produce 40 59
pack stopped

# Killed while the first run of partition 0 and the runs of both requests were running, and the others were done.
begin killed
produce 40 79
where
"$mb" "${connection[@]}" --listen off --max-batch 10 --max-concurrent-runs 4 --exec "
    cat > /dev/null
    case \$MB_RUN_KEY in orders/0/20-29 | *redrive* | *replay*) echo \$\$ >> $work/hanging; exec sleep 600 ;; esac" &
mb_pid=$!
done_runs() { run runs --state succeeded --limit 1000 --json | grep -cE '"key":"orders/(0/30-39|1/20-29|1/30-39)"' || true; }
until [[ $(done_runs) == 3 && $(wc -l < "$work/hanging") == 3 ]]; do sleep 0.2; done
sleep 2 # Offsets are committed four times a second.
kill -KILL "$mb_pid"
wait "$mb_pid" || true
xargs kill -KILL < "$work/hanging"
pack killed
