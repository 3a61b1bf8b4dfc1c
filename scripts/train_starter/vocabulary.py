"""The byte-level BPE tokenizer with Qwen's pre-tokenizer, and the documents it is made from."""

import json
import random

SPECIAL_TOKENS = """
<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|>
<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|>
<tool_response> </tool_response> <think> </think>
""".split()
FIRST_NOT_SPECIAL = SPECIAL_TOKENS.index("<tool_call>")
QWEN_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
ROWS = 8192
TOKENS = 8160


def documents(args, split):
    with open(args.work / f"{split}.jsonl") as lines:
        for line in lines:
            yield json.loads(line)


def tokenizer(args):
    """Train the byte-level BPE: Qwen's normalizer, pre-tokenizer and special tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    bpe = Tokenizer(models.BPE())
    bpe.normalizer = normalizers.NFC()
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENS - len(SPECIAL_TOKENS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False)
    rng = random.Random(0)
    bpe.train_from_iterator((d["text"] for d in documents(args, "train") if rng.random() < 0.5), trainer)
    for index, text in enumerate(SPECIAL_TOKENS):
        token = AddedToken(text, normalized=False, special=index < FIRST_NOT_SPECIAL)
        (bpe.add_special_tokens if index < FIRST_NOT_SPECIAL else bpe.add_tokens)([token])
    bpe.save(str(args.work / "tokenizer.json"))
