"""Outputs in the forms that published chat templates ask for, each with the repository, path and commit it was read in.

The texts are ours; what is taken from a template is where its markers, names and arguments stand.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from aphrodite.text.formats.describe import OutputFormat
from aphrodite.text.formats.table import HARMONY, REASONING_FORMATS, TOOL_FORMATS

ARGS = '{"city": "Zürich \\"}]</tool_call>", "days": [1, 2.5e-3, {"x": null}], "ok": true, "none": {}}'
MORE = '{"q": ""}'


@dataclass(frozen=True)
class Fixture:
    """An output, and what is in it. calls: (name, arguments), ids where the format carries them."""

    source: str
    format: OutputFormat
    output: str
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    ids: tuple[str | None, ...] = ()
    prompt: str = ""
    begun: str = ""
    special: tuple[str, ...] = field(default=())  # markers that are special tokens there


def of(tools: str = "", reasoning: str = "") -> OutputFormat:
    return OutputFormat(TOOL_FORMATS.get(tools), REASONING_FORMATS.get(reasoning))


_LLAMA_CPP = "ggml-org/llama.cpp models/templates/"
_LLAMA_CPP_COPY = "ye-NX/llama.cpp@b354d7c9ecb76c97c07098617cdebbdfffa2583e models/templates/"
_VLLM = "vllm-project/vllm examples/"

FIXTURES = {
    "qwen3": Fixture(
        f"{_LLAMA_CPP_COPY}Qwen-Qwen3-0.6B.jinja",
        of("hermes", "think"),
        "<think>\nTwo places.\n</think>\n\nI look:\n"
        f'<tool_call>\n{{"name": "get_weather", "arguments": {ARGS}}}\n</tool_call>\n'
        f'<tool_call>\n{{"name": "search", "arguments": {MORE}}}\n</tool_call>',
        content="I look:",
        reasoning="Two places.",
        calls=(("get_weather", ARGS), ("search", MORE)),
    ),
    "qwen3, thinking off in the prompt": Fixture(
        f"{_LLAMA_CPP_COPY}Qwen-Qwen3-0.6B.jinja",
        of("hermes", "think"),
        "The answer is 4 < 5.\n",
        content="The answer is 4 < 5.\n",
        prompt="<|im_start|>assistant\n<think>\n\n</think>\n\n",
    ),
    "qwq, which the prompt lets think": Fixture(
        f"{_LLAMA_CPP_COPY}Qwen-QwQ-32B.jinja",
        of("hermes", "think"),
        "hm <b>\n</think>\n\nYes.",
        content="Yes.",
        reasoning="hm <b>",
        prompt="<|im_start|>assistant\n<think>\n",
    ),
    "a continued thought": Fixture(
        f"{_LLAMA_CPP_COPY}Qwen-Qwen3-0.6B.jinja",
        of("hermes", "think"),
        " so 4.</think>4",
        content="4",
        reasoning="so 4.",
        prompt="<|im_start|>assistant\n<think>\n2 and 2,",
        begun="<think>\n2 and 2,",
    ),
    "hermes": Fixture(
        f"{_VLLM}tool_chat_template_hermes.jinja f73e0891897f33af3c09ef402f998c3b2e0f7e07",
        of("hermes"),
        f'<tool_call>\n{{"arguments": {ARGS}, "name": "get_weather"}}\n</tool_call>',
        calls=(("get_weather", ARGS),),
    ),
    "llama 3.1": Fixture(
        f"{_VLLM}tool_chat_template_llama3.1_json.jinja 545227602f2569dfe61adb608beb7bb69fc55fa8",
        of("llama3"),
        f'{{"name": "get_weather", "parameters": {ARGS}}}',
        calls=(("get_weather", ARGS),),
        special=("<|python_tag|>",),
    ),
    "llama 3.3 with a tag": Fixture(
        f"{_LLAMA_CPP_COPY}meta-llama-Llama-3.3-70B-Instruct.jinja",
        of("llama3"),
        f'<|python_tag|>{{"type": "function", "name": "get_weather", "parameters": {ARGS}}}; '
        f'{{"name": "search", "parameters": {MORE}}}',
        calls=(("get_weather", ARGS), ("search", MORE)),
        special=("<|python_tag|>",),
    ),
    "mistral, a list": Fixture(
        f"{_VLLM}tool_chat_template_mistral_parallel.jinja 9e21b671ed5d86d8ffc59f9758d8a37128a2bbea",
        of("mistral"),
        f'[TOOL_CALLS] [{{"name": "get_weather", "arguments": {ARGS}, "id": "a1B2c3D4e"}}, '
        f'{{"name": "search", "arguments": {MORE}, "id": "f5G6h7J8k"}}]',
        calls=(("get_weather", ARGS), ("search", MORE)),
        special=("[TOOL_CALLS]",),
    ),
    "mistral small 3.2": Fixture(
        f"{_LLAMA_CPP_COPY}Mistral-Small-3.2-24B-Instruct-2506.jinja",
        of("mistral"),
        f"I look.[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{ARGS}[TOOL_CALLS]search[CALL_ID]f5G6h7J8k[ARGS]{MORE}",
        content="I look.",
        calls=(("get_weather", ARGS), ("search", MORE)),
        ids=("a1B2c3D4e", "f5G6h7J8k"),
        special=("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"),
    ),
    "magistral": Fixture(
        "ochafik/llama.cpp models/templates/unsloth-Magistral-Small-2509.jinja "
        "1e7262be5b599b3a3c412f3f28a7754f6634a3af",
        of("mistral", "mistral"),
        f"[THINK]Which?\nThat.[/THINK]So:[TOOL_CALLS]get_weather[ARGS]{ARGS}",
        content="So:",
        reasoning="Which?\nThat.",
        calls=(("get_weather", ARGS),),
        special=("[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]"),
    ),
    "deepseek v3": Fixture(
        f"{_VLLM}tool_chat_template_deepseekv3.jinja 7531ada7db299214b688d5ea9a316572863edccf",
        of("deepseek", "think"),
        "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{ARGS}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>search\n"
        f"```json\n{MORE}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        content="I look.",
        calls=(("get_weather", ARGS), ("search", MORE)),
    ),
    "deepseek r1": Fixture(
        f"{_LLAMA_CPP}deepseek-ai-DeepSeek-R1-Distill-Qwen-32B.jinja 20bdc4fac4e8779e5b73646f4b3b24a9964aa566",
        of("deepseek", "think"),
        "I need the weather.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n"
        f"```json\n{ARGS}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        reasoning="I need the weather.",
        calls=(("get_weather", ARGS),),
        prompt="<｜User｜>How is it?<｜Assistant｜><think>\n",
    ),
    "deepseek v3.1": Fixture(
        f"{_LLAMA_CPP}deepseek-ai-DeepSeek-V3.1.jinja 0374c5b6e4c19370262d93e2c3f2a98c9af9fe1f",
        of("deepseek", "think"),
        f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{ARGS}<｜tool▁call▁end｜>"
        f"<｜tool▁call▁begin｜>search<｜tool▁sep｜>{MORE}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        calls=(("get_weather", ARGS), ("search", MORE)),
        prompt="<｜Assistant｜></think>",
    ),
    "kimi k2": Fixture(
        f"{_LLAMA_CPP}moonshotai-Kimi-K2.jinja 02f4a631678bc435c5cea7a54ab4222ee32e8453",
        of("kimi"),
        "I look.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>"
        f"{ARGS}<|tool_call_end|><|tool_call_begin|>functions.search:1<|tool_call_argument_begin|>{MORE}"
        "<|tool_call_end|><|tool_calls_section_end|>",
        content="I look.",
        calls=(("get_weather", ARGS), ("search", MORE)),
        ids=("functions.get_weather:0", "functions.search:1"),
    ),
    "gpt-oss": Fixture(
        f"{_LLAMA_CPP_COPY}openai-gpt-oss-120b.jinja",
        OutputFormat(channels=HARMONY),
        "<|channel|>analysis<|message|>I need it.<|end|><|start|>assistant<|channel|>commentary<|message|>I look."
        "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
        f"{ARGS}<|call|>",
        content="I look.",
        reasoning="I need it.",
        calls=(("get_weather", ARGS),),
        prompt="<|start|>user<|message|>?<|end|><|start|>assistant",
        special=("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>"),
    ),
    "gpt-oss, recipient before the channel": Fixture(
        f"{_LLAMA_CPP_COPY}openai-gpt-oss-120b.jinja",
        OutputFormat(channels=HARMONY),
        f" to=functions.get_weather<|channel|>commentary json<|message|>{ARGS}",
        calls=(("get_weather", ARGS),),
        prompt="<|start|>assistant",
    ),
    "gpt-oss, an answer": Fixture(
        f"{_LLAMA_CPP_COPY}openai-gpt-oss-120b.jinja",
        OutputFormat(channels=HARMONY),
        "<|channel|>analysis<|message|>One.<|end|><|start|>assistant<|channel|>analysis<|message|>Two.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>It is\n4.<|return|>",
        content="It is\n4.",
        reasoning="One.\n\nTwo.",
        prompt="<|start|>assistant",
    ),
    "gpt-oss, a message begun in the prompt": Fixture(
        f"{_LLAMA_CPP_COPY}openai-gpt-oss-120b.jinja",
        OutputFormat(channels=HARMONY),
        " four.<|return|>",
        content=" four.",
        prompt="<|start|>user<|message|>2+2<|end|><|start|>assistant<|channel|>final<|message|>It is",
    ),
    "granite 3.0": Fixture(
        f"{_LLAMA_CPP_COPY}ibm-granite-granite-3.3-2B-Instruct.jinja",
        of("granite", "granite"),
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {ARGS}}}, {{"name": "search", "arguments": {MORE}}}]',
        calls=(("get_weather", ARGS), ("search", MORE)),
        special=("<|tool_call|>",),
    ),
    "granite 3.3, thinking": Fixture(
        f"{_LLAMA_CPP_COPY}ibm-granite-granite-3.3-2B-Instruct.jinja",
        of("granite", "granite"),
        "<think>Well.</think>\n<response>So it is.</response>\n",
        content="So it is.\n",
        reasoning="Well.",
    ),
    "granite 20b": Fixture(
        f"{_VLLM}tool_chat_template_granite.jinja 16592367ae4eb6187ae8d66b9cbf57ac29a45cc0",
        of("granite", "granite"),
        f'<function_call> {{"name": "get_weather", "arguments": {ARGS}}}',
        calls=(("get_weather", ARGS),),
    ),
    "phi 4 mini, functools": Fixture(
        f"{_VLLM}tool_chat_template_phi4_mini.jinja 07b13497a9b52274d334090a9a8e04d5ec9ca7e9",
        of("phi"),
        f'functools[{{"name": "get_weather", "arguments": {ARGS}}}, {{"name": "search", "arguments": {MORE}}}]',
        calls=(("get_weather", ARGS), ("search", MORE)),
    ),
    "phi 4 mini, tags": Fixture(
        f"{_LLAMA_CPP}llama-cpp-microsoft-Phi-4-mini-instruct.jinja 6d7822c18b5bc43c0053f09cf0eba66bd7e78a93",
        of("phi"),
        f'<|tool_call|>{{"name": "get_weather", "arguments": {ARGS}}}<|/tool_call|>'
        f'<|tool_call|>[{{"name": "search", "arguments": {MORE}}}]<|/tool_call|>',
        calls=(("get_weather", ARGS), ("search", MORE)),
        special=("<|tool_call|>", "<|/tool_call|>"),
    ),
    "command r7b": Fixture(
        f"{_LLAMA_CPP_COPY}CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja",
        of("cohere", "cohere"),
        "<|START_THINKING|>I will look.<|END_THINKING|><|START_ACTION|>[\n"
        f'    {{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {ARGS}}},\n'
        f'    {{"tool_call_id": "1", "tool_name": "search", "parameters": {MORE}}}\n]<|END_ACTION|>',
        reasoning="I will look.",
        calls=(("get_weather", ARGS), ("search", MORE)),
        ids=("id 0", "id 1"),
    ),
    "command r7b, an answer": Fixture(
        f"{_LLAMA_CPP_COPY}CohereForAI-c4ai-command-r7b-12-2024-tool_use.jinja",
        of("cohere", "cohere"),
        "<|START_THINKING|>Rain.<|END_THINKING|><|START_RESPONSE|>It rains.<|END_RESPONSE|>",
        reasoning="Rain.",
        content="It rains.",
    ),
    "nemotron nano v2": Fixture(
        f"{_LLAMA_CPP_COPY}NVIDIA-Nemotron-Nano-v2.jinja",
        of("nemotron", "think"),
        f'Hm.</think>\nI look.\n<TOOLCALL>[{{"name": "get_weather", "arguments": {ARGS}}}, '
        '{"name": "search", "arguments": "{\\"q\\": \\"\\"}"}]</TOOLCALL>\n',
        reasoning="Hm.",
        content="I look.",
        calls=(("get_weather", ARGS), ("search", MORE)),
        prompt="<SPECIAL_11>Assistant\n<think>\n",
    ),
    "json, in OpenAI's own shape and fenced": Fixture(
        "no template: a model that is told to answer in JSON",
        of("json"),
        f'```json\n[{{"id": "c1", "type": "function", '
        f'"function": {{"name": "get_weather", "arguments": {ARGS}}}}}]\n```',
        calls=(("get_weather", ARGS),),
        ids=("c1",),
    ),
}
