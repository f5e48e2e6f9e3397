//! Dynamo's KV indexers on the workload of `tools/bench/router-index.bench.mjs`; prints one JSON object. CPU time of the
//! working thread (CLOCK_THREAD_CPUTIME_ID), median of rounds. Look-ups: `ConcurrentRadixTreeCompressed`, which takes local
//! (per block) hashes. Stores: the faster of it and the single-threaded `RadixTree`. Usage: dynamo-index [BLOCKS] [WORKERS]
use dynamo_kv_router::indexer::{SyncIndexer, WorkerTask};
use dynamo_kv_router::protocols::*;
use dynamo_kv_router::{ConcurrentRadixTreeCompressed, RadixTree};
use std::sync::Arc;

const RUN: usize = 128;
const CHAIN: usize = 512;
const ROUND: usize = 4000;
type Path = Vec<u32>;

fn clock_ns(clock: libc::clockid_t) -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(clock, &mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

fn heap_bytes() -> usize {
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn mix(value: u64) -> u64 {
    let x = (value ^ (value >> 30)).wrapping_mul(0xbf58476d1ce4e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d049bb133111eb);
    x ^ (x >> 31)
}

/// xorshift32, as in the JavaScript benchmark: both build the same paths.
struct Random(u32);
impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0
    }
}

fn path(prefix: u32, unique: u32) -> Path {
    (0..RUN as u32).map(|i| if i < 64 { (prefix << 12) + i + 1 } else { 0x4000_0000 | unique.wrapping_mul(128).wrapping_add(i) }).collect()
}

fn local(id: u32) -> LocalBlockHash {
    LocalBlockHash(mix(id as u64))
}

/// A `stored` event for `ids[from .. from + RUN]`.
fn stored(worker: u64, event_id: u64, ids: &[u32], from: usize) -> RouterEvent {
    let mut parent = None;
    let mut sequence = 0x1234_5678_9abcu64;
    let mut blocks = Vec::new();
    for (i, &id) in ids[..from + RUN].iter().enumerate() {
        sequence = mix(sequence ^ mix(id as u64));
        let block_hash = ExternalSequenceBlockHash(sequence);
        if i < from {
            parent = Some(block_hash);
        } else {
            blocks.push(KvCacheStoredBlockData { block_hash, tokens_hash: local(id), mm_extra_info: None });
        }
    }
    let data = KvCacheEventData::Stored(KvCacheStoreData { parent_hash: parent, start_position: None, blocks });
    RouterEvent::new(worker, KvCacheEvent { event_id, data, dp_rank: 0 })
}

/// Applies events on a worker thread of the concurrent tree; CPU nanoseconds of that thread until the last is applied.
fn apply(tree: &Arc<ConcurrentRadixTreeCompressed>, events: Vec<RouterEvent>) -> (u64, flume::Sender<WorkerTask>, std::thread::JoinHandle<()>) {
    let (sender, receiver) = flume::unbounded();
    let (clock_out, clock_in) = std::sync::mpsc::channel();
    let shared = tree.clone();
    let thread = std::thread::spawn(move || {
        let mut clock: libc::clockid_t = 0;
        unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        clock_out.send(clock).unwrap();
        shared.worker(receiver, None).unwrap();
    });
    let clock = clock_in.recv().unwrap();
    let before = clock_ns(clock);
    let mut events = events.into_iter().peekable();
    while let Some(event) = events.next() {
        if events.peek().is_some() {
            sender.send(WorkerTask::Event(event)).unwrap();
            continue;
        }
        let (resp, done) = tokio::sync::oneshot::channel();
        sender.send(WorkerTask::EventWithAck { event, resp }).unwrap();
        assert!(done.blocking_recv().unwrap());
    }
    let took = clock_ns(clock) - before;
    // The thread keeps its part of the index until the sender is dropped.
    (took, sender, thread)
}

fn find(name: &str, tree: &ConcurrentRadixTreeCompressed, queries: &[Vec<LocalBlockHash>]) {
    let count = (ROUND / queries.len()).max(1) * queries.len();
    let mut rounds = Vec::new();
    let mut hits = 0;
    for round in 0..20 {
        // Fresh copies: every query of a router is cold.
        let copies: Vec<Vec<LocalBlockHash>> = (0..count).map(|i| queries[i % queries.len()].clone()).collect();
        let before = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        for query in &copies {
            hits += tree.find_matches(query, false).scores.len();
        }
        let took = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - before;
        if round >= 5 {
            rounds.push(took as f64 / count as f64 / 1000.0);
        }
    }
    eprintln!("{name}: {:.1} workers", hits as f64 / count as f64 / 20.0);
    println!("  \"{name}\": {:.4},", median(rounds));
}

fn main() {
    let arguments: Vec<usize> = std::env::args().skip(1).map(|word| word.parse().expect("a number")).collect();
    let blocks = *arguments.first().unwrap_or(&1_000_000);
    let workers = *arguments.get(1).unwrap_or(&64) as u64;
    let chains = blocks / RUN;
    let mut random = Random(12345);
    let paths: Vec<Path> = (0..chains).map(|u| path(random.next() % 64, u as u32)).collect();
    let events = || paths.iter().enumerate().map(|(u, ids)| stored(u as u64 % workers, (u as u64 / workers) + 1, ids, 0)).collect::<Vec<_>>();

    println!("{{\n  \"crate\": \"dynamo-kv-router 1.6.1\",\n  \"blocks\": {}, \"workers\": {workers},", chains * RUN);
    let reps = if blocks > 3_000_000 { 2 } else { 5 };
    let (mut radix, mut compressed) = (Vec::new(), Vec::new());
    for _ in 0..reps {
        let all = events();
        let mut tree = RadixTree::new();
        let before = clock_ns(libc::CLOCK_THREAD_CPUTIME_ID);
        for event in all {
            tree.apply_event(event).unwrap();
        }
        radix.push((clock_ns(libc::CLOCK_THREAD_CPUTIME_ID) - before) as f64 / chains as f64 / 1000.0);
        drop(tree);
        let tree = Arc::new(ConcurrentRadixTreeCompressed::new());
        let (took, sender, thread) = apply(&tree, events());
        compressed.push(took as f64 / chains as f64 / 1000.0);
        drop(sender);
        thread.join().unwrap();
    }
    let (radix, compressed) = (median(radix), median(compressed));
    println!("  \"storeRadix\": {radix:.4}, \"storeCompressed\": {compressed:.4},\n  \"index/store-events\": {:.4},", radix.min(compressed));

    // Pairs (worker, block): a worker's chains of one prefix share its 64 blocks.
    let mut prefixes = std::collections::HashSet::new();
    for (u, ids) in paths.iter().enumerate() {
        prefixes.insert((u as u64 % workers, ids[0]));
    }
    let pairs = chains * (RUN - 64) + prefixes.len() * 64;
    let heap = |all: Vec<RouterEvent>| {
        let input = heap_bytes();
        let mut tree = RadixTree::new();
        for event in &all {
            tree.apply_event(event.clone()).unwrap();
        }
        (heap_bytes() - input) as f64 / pairs as f64
    };
    println!("  \"pairs\": {pairs}, \"index/bytes-per-entry\": {:.2},", heap(events()));

    let tree = Arc::new(ConcurrentRadixTreeCompressed::new());
    let (_, sender, thread) = apply(&tree, events());
    let long: Vec<(u64, Path)> = (0..32).map(|k: u64| ([1, 4, 16, 64][k as usize % 4], (0..CHAIN).map(|i| (-((k as i64 + 7) * 1000 + i as i64)) as u32).collect())).collect();
    let mut more = Vec::new();
    for from in (0..CHAIN).step_by(RUN) {
        for (holders, ids) in &long {
            more.extend((0..(*holders).min(workers)).map(|worker| stored(worker, 1_000_000 + from as u64, ids, from)));
        }
    }
    let (_, more_sender, more_thread) = apply(&tree, more);
    let padded = |ids: &[u32], random: &mut Random| -> Vec<LocalBlockHash> { (0..CHAIN).map(|i| local(if i < ids.len() { ids[i] } else { random.next() })).collect() };
    let deep: Vec<_> = paths.iter().step_by(16).take(400).map(|ids| padded(ids, &mut random)).collect();
    let prefix: Vec<_> = (0..400).map(|i| padded(&path(i % 64, 0)[..64], &mut random)).collect();
    let miss: Vec<_> = (0..400).map(|_| padded(&[], &mut random)).collect();
    let full = |holders: u64| long.iter().filter(|(count, _)| *count == holders).map(|(_, ids)| ids.iter().map(|&id| local(id)).collect()).collect::<Vec<_>>();
    find("index/full-512/1-worker", &tree, &full(1));
    find("index/deep-128-of-512/55-workers", &tree, &deep);
    find("index/full-512/64-workers", &tree, &full(64));
    find("index/prefix-64-of-512", &tree, &prefix);
    find("index/miss-512", &tree, &miss);
    println!("  \"unit\": \"us\"\n}}");
    drop((sender, more_sender));
    thread.join().unwrap();
    more_thread.join().unwrap();
}
