"""Writes packages/preprocessor/fixtures/: small tokenizers of every layout, and ids and texts from Hugging Face's own library.

    python3 -m venv /tmp/venv && /tmp/venv/bin/pip install tokenizers==0.23.3 && /tmp/venv/bin/python tools/tokenizer-fixtures/generate.py

The corpus is this machine's Python standard library plus a few lines of other scripts; the fixtures are committed, so it does not
have to be the same everywhere.
"""

import argparse
import inspect
import json
import pathlib
import textwrap

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
OUT = ROOT / "packages/preprocessor/fixtures"
CL100K = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CL100K.replace(r"\p{N}{1,3}", r"\p{N}")
OTHER = [
    "Der schnelle braune Fuchs springt über den faulen Hund; das Mädchen hört zu. Größe, Straße, Übung.",
    "Le garçon naïf a mangé une crème brûlée à l'hôtel près de la forêt. C'était très bon, n'est-ce pas ?",
    "Быстрая коричневая лиса прыгает через ленивую собаку. Привет, мир! Сколько это стоит?",
    "今日は天気がいいですね。日本語のテキストを分割します。中文分词是一个有趣的问题。我们今天去公园。",
    "안녕하세요 세계. 한국어 문장입니다. مرحبا بالعالم، كيف حالك؟ שלום עולם. नमस्ते दुनिया।",
    "😀 😃 👍🏽 👨‍👩‍👧 🇩🇪 🇯🇵 ❤️ ½ ² ³ Ⅷ ٣٤ — – … “quoted” ‘single’ €100 £20 №5",
]
CHAT = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def corpus():
    yield from [f" {n} {n * 7} x{n}.{n}   {n};" for n in range(400)]
    for module in (textwrap, argparse, json):
        yield from inspect.getsource(module).splitlines(keepends=True)
    for line in OTHER:
        yield from [line] * 12


def train(tokenizer, vocab, special, **options):
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=special, show_progress=False, **options)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def gpt2():
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    t.decoder = decoders.ByteLevel()
    return train(t, 1000, ["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def split(regex, special, normalizer=None, ignore_merges=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer:
        t.normalizer = normalizer
    t.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(regex), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    t.decoder = decoders.ByteLevel()
    return train(t, 1000, special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def llama3():
    t = split(CL100K, CHAT, ignore_merges=True)
    t.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", 0)]
    )
    return t


def qwen2():
    t = split(QWEN2, IM, normalizer=normalizers.NFC())
    t.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    return t


def llama2():
    special = ["<unk>", "<s>", "</s>"]
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    # Trained word by word, so that no entry reaches across a word start, and used without a pre-tokenizer, as Llama 2 is.
    t.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True)
    train(t, 1200, special + bytes_, limit_alphabet=200)
    t.pre_tokenizer = None
    data = json.loads(t.to_str())
    data["added_tokens"] = [a for a in data["added_tokens"] if a["content"] in special]
    data["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ],
    }
    t = Tokenizer.from_str(json.dumps(data))
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return t


GOLDEN = [
    "", " ", "  ", "\n", " \n ", "Hello world", " Hello  world ", "don't I'LL we've he'd 'S 'ſ it''s", "x = 3.14159;\n\tif (a && b) { return c[0]; }\r\n\r\n  end",
    "1234567 12 3 4567890", "a1b22c333", " 1 2  3   4", "٣٤٥ and ½ or Ⅷ ² x²", "price: $1,234.56 (10%)", "\u0085 next \u3000 ideographic \ufeff bom \u00a0 nbsp \u200b zwsp",
    "caf\u00e9 cafe\u0301 A\u030a \u1e9b\u0323", "日本語 テキスト 中文", "안녕 세계", "مرحبا بالعالم", "👨‍👩‍👧 👍🏽 🇩🇪🇯🇵 ❤️", "\U000e0041 \U0001f600\U0001f600", "𝐀𝐁𝐂 𝟏𝟐𝟑 𐄇",
    "<|eot_id|>", "a<|eot_id|>b <|eot_id|> <|eot_id", "<|im_start|>user\nHi<|im_end|>\n", "<s>Hi</s> <unk>", "<|user|> hi<|end|><|assistant|>", "▁ meta ▁▁x", "tab\tsep\t\tend", "trailing   ",
    "   leading", "a\r\nb\rc\n\n\nd", "    four\n        eight", "word" * 40, "a" * 200, "😀" * 30, "é" * 70, "-" * 100, "\n" * 50, " " * 70 + "x",
    "Ünïcödé ß ẞ ſ K", "\U00011de0\U00016ff4 9", "e\u0301\u0301 \u0300", "<tool_call>{\"a\": 1}</tool_call>", "\u0958 \u2126 \u212b", "\x00\x01\x7f", "\ufffd \ue000 \uffff",
]


def main():
    OUT.mkdir(exist_ok=True)
    golden = {"source": f"PyPI tokenizers {tokenizers.__version__}, tools/tokenizer-fixtures/generate.py", "texts": GOLDEN, "layouts": {}}
    made = {"gpt2": gpt2(), "llama3": llama3(), "qwen2": qwen2(), "llama2": llama2()}
    for name, t in made.items():
        path = OUT / f"{name}.tokenizer.json"
        path.write_text(json.dumps(json.loads(t.to_str()), ensure_ascii=False, separators=(",", ":")) + "\n")
        print(path.name, path.stat().st_size)
    made["demo"] = Tokenizer.from_file(str(ROOT / "packages/model-demo/model/tokenizer.json"))
    # gpt2's vocabulary has merges over digits, so that here, unlike with the demo's, the digit rule changes ids.
    made["gpt2-digits"] = Tokenizer.from_str(made["gpt2"].to_str())
    made["gpt2-digits"].pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    for name, t in made.items():
        ids = [t.encode(text, add_special_tokens=False).ids for text in GOLDEN]
        golden["layouts"][name] = {
            "ids": ids,
            "decoded": [t.decode(x, skip_special_tokens=True) for x in ids],
            "withSpecial": t.encode("Hi there", add_special_tokens=True).ids,
        }
    path = OUT / "golden.json"
    path.write_text(json.dumps(golden, ensure_ascii=True, separators=(",", ":")).replace('},"', '},\n"') + "\n")
    print(path.name, path.stat().st_size)


main()
