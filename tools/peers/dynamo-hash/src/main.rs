//! Dynamo's own block and sequence hashes (crate dynamo-kv-router 1.6.1).
//! `dynamo-hash` prints CPU microseconds (CLOCK_THREAD_CPUTIME_ID, median of rounds) for 8,192 tokens as one JSON object.
//! `dynamo-hash --vectors` prints the golden vectors of packages/tokens/src/dynamo-vectors.json.
use dynamo_kv_router::protocols::*;
use std::hint::black_box;

const TOKENS: usize = 8192;

/// The recipe that the fixture names: the same in packages/tokens/src/dynamo-vectors.test.ts.
fn token(i: usize, shift: u32) -> u32 {
    (i as u32 + 1).wrapping_mul(0x9e3779b1) >> shift
}

fn tokens(count: usize, shift: u32) -> Vec<u32> {
    (0..count).map(|i| token(i, shift)).collect()
}

fn cpu_ns() -> u64 {
    let mut at = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut at) };
    at.tv_sec as u64 * 1_000_000_000 + at.tv_nsec as u64
}

fn median_us(mut call: impl FnMut()) -> f64 {
    let mut rounds: Vec<f64> = (0..21)
        .map(|_| {
            let before = cpu_ns();
            for _ in 0..400 {
                call();
            }
            (cpu_ns() - before) as f64 / 400_000.0
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[rounds.len() / 2]
}

fn time() {
    let input = tokens(TOKENS, 15);
    let rows: Vec<String> = [16u32, 32, 64, 128]
        .iter()
        .map(|&size| {
            let hash = || compute_block_hash_for_seq(black_box(&input), size, BlockHashOptions::default());
            let blocks = hash();
            let block_us = median_us(|| drop(black_box(hash())));
            let sequence_us = median_us(|| drop(black_box(compute_seq_hash_for_block(black_box(&blocks)))));
            let both_us = median_us(|| {
                let blocks = hash();
                drop(black_box(compute_seq_hash_for_block(&blocks)));
            });
            format!("\"{size}\":{{\"blockUs\":{block_us:.3},\"sequenceUs\":{sequence_us:.3},\"bothUs\":{both_us:.3}}}")
        })
        .collect();
    println!("{{\"tokens\":{TOKENS},\"byBlockSize\":{{{}}}}}", rows.join(","));
}

struct Case<'a> {
    block_size: usize,
    count: usize,
    shift: u32,
    salt: Option<&'a str>,
    lora: Option<&'a str>,
    objects: Vec<(u64, usize, usize)>,
}

fn quoted(text: Option<&str>) -> String {
    text.map_or("null".to_string(), |text| format!("\"{text}\""))
}

fn hexes(hashes: impl Iterator<Item = u64>) -> String {
    hashes.map(|hash| format!("\"{hash:016x}\"")).collect::<Vec<_>>().join(",")
}

fn vector(case: &Case) -> String {
    let Case { block_size, count, shift, salt, lora, objects } = case;
    // One request object per range, as the frontend sends them; the library says which blocks a range affects.
    let extra = RequestExtraInfo { mm_objects: objects.iter().map(|&(mm_hash, start, end)| RequestMmObjectInfo { mm_hash, offsets: vec![(start, end)] }).collect() };
    let infos = extra.to_block_level(*block_size, *count);
    let options = BlockHashOptions { block_mm_infos: if objects.is_empty() { None } else { Some(&infos) }, lora_name: *lora, cache_namespace: *salt, is_eagle: None };
    let blocks = compute_block_hash_for_seq(&tokens(*count, *shift), *block_size as u32, options);
    let sequences = compute_seq_hash_for_block(&blocks);
    let ranges: Vec<String> = objects.iter().map(|(hash, start, end)| format!("[\"{hash:016x}\",{start},{end}]")).collect();
    format!(
        "{{\"blockSize\":{block_size},\"tokens\":{count},\"shift\":{shift},\"salt\":{},\"lora\":{},\"multimodal\":[{}],\"blockHashes\":[{}],\"sequenceHashes\":[{}]}}",
        quoted(*salt),
        quoted(*lora),
        ranges.join(","),
        hexes(blocks.iter().map(|hash| hash.0)),
        hexes(sequences.into_iter())
    )
}

fn vectors() {
    let names = [(None, None), (Some("tenant-7"), None), (None, Some("adapter")), (Some("Mandant-ä-漢字"), Some("🦙-lora")), (Some(""), Some(""))];
    let mut cases = Vec::new();
    for block_size in [1, 2, 3, 4, 5, 8, 15, 16, 17, 30, 31, 32, 33, 48, 60, 61, 64, 65, 100, 128, 256, 257, 512] {
        for (n, &(salt, lora)) in names.iter().enumerate() {
            let small = matches!(block_size, 16 | 32 | 64 | 128);
            if n > 0 && !small && block_size != 257 {
                continue;
            }
            cases.push(Case { block_size, count: block_size * 4 + block_size / 2, shift: if n == 3 { 0 } else { 15 }, salt, lora, objects: vec![] });
        }
    }
    for block_size in [16, 32, 64, 128] {
        let b = block_size;
        let shapes = [
            vec![(0x1111_2222_3333_4444, 2, b - 2)],                                              // inside one block
            vec![(0xfedc_ba98_7654_3210, b, 2 * b)],                                              // exactly one block: end is exclusive
            vec![(0x8000_0000_0000_0001, b - 1, 2 * b + 1)],                                      // three blocks, by one token at each end
            vec![(0xffff_ffff_ffff_ffff, 1, 3), (0x0000_0000_0000_0007, 5, b + 1)],               // unsorted; the second reaches into the next block
            vec![(0x0102_0304_0506_0708, 0, 2), (0x0102_0304_0506_0708, 4, 6)],                   // the same object twice in a block counts once
            vec![(5, 3 * b, 4 * b + 1), (4, 4 * b - 1, 4 * b)],                                   // runs into the incomplete block
            vec![(3, 7, 7)],                                                                      // empty range: no block
        ];
        for objects in shapes {
            cases.push(Case { block_size, count: b * 4 + b / 2, shift: 15, salt: Some("tenant-7"), lora: None, objects });
        }
    }
    println!("{{");
    println!("\"madeBy\":\"tools/peers/dynamo-hash --vectors: compute_block_hash_for_seq, compute_seq_hash_for_block and RequestExtraInfo::to_block_level of crate dynamo-kv-router 1.6.1\",");
    println!("\"recipe\":\"token i = ((i + 1) * 0x9e3779b1 mod 2^32) >>> shift; multimodal = [object hash, first token, token behind the last]\",");
    let ids = ["a", "image-1", "deadbeefcafef00d00112233445566778899aabbccddeeff0011223344556677", "DEADBEEFCAFEF00D00112233445566778899AABBCCDDEEFF0011223344556677", "geadbeefcafef00d00112233445566778899aabbccddeeff0011223344556677", "bild-ä"];
    let ids: Vec<String> = ids.iter().map(|id| format!("\"{id}\":\"{:016x}\"", hash_mm_identifier(id).unwrap())).collect();
    println!("\"identifiers\":{{{}}},", ids.join(","));
    println!("\"cases\":[\n{}\n]}}", cases.iter().map(vector).collect::<Vec<_>>().join(",\n"));
}

fn main() {
    if std::env::args().nth(1).as_deref() == Some("--vectors") {
        vectors();
    } else {
        time();
    }
}
