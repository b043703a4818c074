"""Tiny real checkpoints, made by Transformers from a config and a seed.

Default initialisation hides errors: with norms of one, biases of zero and small matrices a wrong norm, a forgotten
bias or a wrong attention scale changes almost nothing. Here matrices are randn * 1.5 / sqrt(fan_in), norms
1 + 0.3 randn (0.3 randn where the family adds 1 itself), biases 0.3 randn.
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    Cohere2Config,
    Cohere2ForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    Starcoder2Config,
    Starcoder2ForCausalLM,
)
from transformers.utils import logging

logging.disable_progress_bar()
logging.set_verbosity_error()

VOCAB_SIZE = 320
BOS, EOS = 1, 2
SPECIAL_TOKENS = ["<unk>", "<s>", "</s>"]
_CORPUS = (
    "The engine schedules a step, executes it and updates its sequences.",
    "A block holds sixteen tokens; a sequence has as many blocks as it needs.",
    "Grüße aus der Küche: für Äpfel, Öl und Brötchen zahlen wir 12 € und 50 ct.",
    "the the the there then than that this these those other another",
)
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}


EXPERTS: Mapping[str, Any] = {"num_local_experts": 4, "num_experts_per_tok": 2}


class FreeConfig(LlamaConfig):
    """Llama's config without Transformers' wish that hidden_size be a multiple of the heads: with head_dim given,
    its own modules do not need it."""

    def validate(self) -> None:
        pass


@dataclass(frozen=True)
class Family:
    """Transformers' classes of a family, its fields over DEFAULTS, and what it adds to the weights of norms."""

    config: type[Any]
    model: type[Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    norm_offset: int = 0


FAMILIES: dict[str, Family] = {
    "llama": Family(FreeConfig, LlamaForCausalLM),
    "mistral": Family(MistralConfig, MistralForCausalLM, {"head_dim": 16}),
    "gemma2": Family(Gemma2Config, Gemma2ForCausalLM, {"head_dim": 16, "pad_token_id": 0}, 1),
    "gemma3_text": Family(Gemma3TextConfig, Gemma3ForCausalLM, {"head_dim": 16, "pad_token_id": 0}, 1),
    "mixtral": Family(MixtralConfig, MixtralForCausalLM, {"head_dim": 16, **EXPERTS}),
    "qwen2": Family(Qwen2Config, Qwen2ForCausalLM),
    "qwen3": Family(Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "qwen3_moe": Family(Qwen3MoeConfig, Qwen3MoeForCausalLM, {"head_dim": 16, "moe_intermediate_size": 40, **EXPERTS}),
    "phi3": Family(Phi3Config, Phi3ForCausalLM, {"pad_token_id": 0}),
    "starcoder2": Family(Starcoder2Config, Starcoder2ForCausalLM),
    "cohere": Family(CohereConfig, CohereForCausalLM),
    "cohere2": Family(Cohere2Config, Cohere2ForCausalLM),
}


def _modules(name: str, model: str = "", **defaults: Any) -> Family:
    """A family that has no page here: Transformers' classes by the name that they share."""
    return Family(
        getattr(transformers, f"{name}Config"), getattr(transformers, model or f"{name}ForCausalLM"), defaults
    )


_LATENT = {"kv_lora_rank": 16, "q_lora_rank": 24, "qk_rope_head_dim": 8, "qk_nope_head_dim": 12, "v_head_dim": 10}
_MANY_EXPERTS = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "n_shared_experts": 1}
_SPARSE = {**_MANY_EXPERTS, "moe_intermediate_size": 40, "first_k_dense_replace": 1}
WITHOUT_A_PAGE: Mapping[str, Family] = {
    "arcee": _modules("Arcee", head_dim=16),
    "deepseek_v3": _modules("DeepseekV3", num_key_value_heads=4, head_dim=8, **_LATENT, **_SPARSE),
    "dots1": _modules("Dots1", head_dim=16, **_SPARSE),
    "ernie4_5": _modules("Ernie4_5", head_dim=16, use_bias=True),
    "exaone4": _modules("Exaone4", head_dim=16),
    "gemma": _modules("Gemma", head_dim=16, pad_token_id=0),
    "glm4": _modules("Glm4", head_dim=16, pad_token_id=0),
    "gpt2": _modules("GPT2", "GPT2LMHeadModel", n_positions=512),
    "gpt_neox": _modules("GPTNeoX", rotary_pct=0.25),
    "gpt_oss": _modules("GptOss", head_dim=16, pad_token_id=0, **EXPERTS),
    "gptj": _modules("GPTJ", rotary_dim=8, n_positions=512),
    "granite": _modules("Granite", embedding_multiplier=6.0, attention_multiplier=0.3, residual_multiplier=0.4),
    "granitemoe": _modules("GraniteMoe", logits_scaling=0.5, attention_multiplier=0.3, **EXPERTS),
    "helium": _modules("Helium", head_dim=16),
    "hunyuan_v1_dense": _modules("HunYuanDenseV1", head_dim=16),
    "ministral": _modules("Ministral", head_dim=16),
    "nemotron": _modules("Nemotron", head_dim=16),
    "olmo2": _modules("Olmo2"),
    "olmo3": _modules("Olmo3"),
    "olmoe": _modules("Olmoe", num_experts=4, num_experts_per_tok=2),
    "opt": _modules("OPT", ffn_dim=96, word_embed_proj_dim=64),
    "phi": _modules("Phi"),
    "seed_oss": _modules("SeedOss", head_dim=16),
    "smollm3": _modules("SmolLM3", pad_token_id=0),
    "stablelm": _modules("StableLm"),
    "vaultgemma": _modules("VaultGemma", head_dim=16, pad_token_id=0),
}
FAMILIES.update(WITHOUT_A_PAGE)


class Checkpoints:
    """Folders of checkpoints by what they were made from; each is made once a session, and nobody may write to it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._made: dict[str, Path] = {}
        self._numbers = itertools.count()

    def llama(self, **arguments: Any) -> Path:
        """A Llama checkpoint, of the arguments of `make`."""
        return self.make("llama", **arguments)

    def make(
        self,
        family: str,
        *,
        seed: int = 0,
        dtype: str = "float32",
        shard_size: str | None = None,
        embedding_scale: float = 1.0,
        tokenizer: bool = True,
        generation: Mapping[str, Any] | None = None,
        fused: bool = False,
        old_style: str | None = None,
        without: tuple[str, ...] = (),
        fields: Mapping[str, Any] | None = None,
        **config: Any,
    ) -> Path:
        """A checkpoint.

        config     fields of the family's config over DEFAULTS
        fused      tensors as Transformers has them in memory: each matrix of all experts is one
        old_style  "rope_type" or "type": config.json as Transformers wrote it before version 5, with that key
        without    fields left out of config.json
        fields     written into config.json as they are
        """
        arguments = {name: value for name, value in locals().items() if name != "self"}
        key = json.dumps(arguments, sort_keys=True, default=str)
        if key not in self._made:
            folder = self._root / f"{family}{next(self._numbers)}"
            save(
                folder,
                FAMILIES[family],
                seed=seed,
                dtype=dtype,
                shard_size=shard_size,
                embedding_scale=embedding_scale,
                fused=fused,
                config=config,
            )
            if tokenizer:
                train_tokenizer().save(str(folder / "tokenizer.json"))
            write_json(folder / "generation_config.json", {"eos_token_id": EOS, **(generation or {})})
            if old_style:
                edit_json(folder / "config.json", lambda data: as_before_version_5(data, old_style))
            edit_json(folder / "config.json", lambda data: [data.pop(name, None) for name in without])
            edit_json(folder / "config.json", lambda data: data.update(fields or {}))
            self._made[key] = folder
        return self._made[key]

    def copy(self, folder: Path, to: Path) -> Path:
        """A folder's copy that the caller may spoil."""
        return Path(shutil.copytree(folder, to))


def save(
    folder: Path,
    family: Family,
    *,
    seed: int,
    dtype: str,
    shard_size: str | None,
    embedding_scale: float,
    fused: bool,
    config: Mapping[str, Any],
) -> None:
    """Make the network, scale its weights, save it."""
    settings = {**DEFAULTS, **family.defaults, **config}
    model = family.model(family.config(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if name.endswith("bias"):
                parameter.copy_(0.3 * noise)
            elif "norm" in name or ".ln_" in name:
                parameter.copy_(1 - family.norm_offset + 0.3 * noise)
            else:
                scale = embedding_scale if "embed_tokens" in name else 1.0
                parameter.copy_(noise * scale * 1.5 / parameter.shape[-1] ** 0.5)
    model = model.to(getattr(torch, dtype))
    more = {"max_shard_size": shard_size} if shard_size else {}
    model.save_pretrained(folder, save_original_format=not fused, **more)


def train_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer of VOCAB_SIZE tokens that puts <s> in front, as Llama's do."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    assert tokenizer.get_vocab_size() == VOCAB_SIZE
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return tokenizer


def as_before_version_5(data: dict[str, Any], key: str) -> None:
    """Rewrite a config's rope_parameters and dtype as rope_theta, rope_scaling and torch_dtype."""
    rope = dict(data.pop("rope_parameters"))
    if "full_attention" in rope:
        data["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        rope = dict(rope["full_attention"])
    data["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type", "default")
    data["rope_scaling"] = None if kind == "default" else {key: kind, **rope}
    data["torch_dtype"] = data.pop("dtype")


def write_json(path: Path, data: object) -> None:
    path.write_text(json.dumps(data, indent=2))


def edit_json(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file in place."""
    data = json.loads(path.read_text())
    edit(data)
    write_json(path, data)
