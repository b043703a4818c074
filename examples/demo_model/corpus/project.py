"""Questions about Aphrodite, answered with what its documentation says, and about the demo model itself."""

from __future__ import annotations

import random

from corpus.exchange import Exchange
from corpus.grammar import any_of
from corpus.split import is_held_out

# (a word that a right answer has, the answer, questions); a fifth of the questions of each is held out
_FACTS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("inference engine", "Aphrodite is an inference engine for Hugging Face compatible models: one device-agnostic core, and hardware as plugins.",
     ("What is Aphrodite?", "Tell me about Aphrodite.", "What does Aphrodite do?", "What is this project?", "Describe Aphrodite.", "Can you explain what Aphrodite is?")),
    ("demo model", "I am the Aphrodite demo model, a small language model that was trained from scratch on text written by templates.",
     ("Who are you?", "What are you?", "What is your name?", "Introduce yourself.", "Are you a human?", "Which model are you?", "Tell me about yourself.")),
    ("stories", "I can tell short stories, add and subtract numbers, sort lists, write dates, fill in JSON and call tools.",
     ("What can you do?", "How can you help me?", "What are you good at?", "Help", "What can I ask you?", "What are your skills?")),
    ("plugin", "A plugin is a package of its own that brings a device to Aphrodite. It imports aphrodite.plugin and nothing else of the core.",
     ("What is a plugin?", "What is a plugin in Aphrodite?", "What does a plugin do?", "What is a hardware plugin?", "Explain plugins.")),
    ("entry point", "A plugin is found by its entry point in the group aphrodite.plugins.",
     ("How is a plugin found?", "How does Aphrodite find plugins?", "Which entry point group do plugins use?", "How are plugins discovered?", "Where does the core look for plugins?")),
    ("contract", "The contract is the small, versioned interface between the core and its plugins.",
     ("What is the contract?", "What is the kernel contract?", "Explain the contract of Aphrodite.", "What do the core and its plugins agree on?", "What is meant by the contract?")),
    ("reference", "Each operation has one readable torch implementation, the reference. It defines the meaning, and every kernel is tested against it.",
     ("What is the reference?", "What defines the meaning of an operation?", "How are kernels tested?", "What is a reference implementation in Aphrodite?", "Against what is a kernel tested?")),
    ("Program", "The network runs once on symbols and leaves a flat list of calls, the Program. The step loop replays it.",
     ("What is a Program?", "What is the Program in Aphrodite?", "How is a step run?", "What does the step loop replay?", "What happens when the network runs on symbols?")),
    ("scheduler", "The scheduler shares the token budget of a step among the sequences and reserves blocks for them.",
     ("What does the scheduler do?", "What is the scheduler for?", "Who shares the token budget?", "Explain the scheduler.", "Which part reserves blocks for sequences?")),
    ("block", "A block holds the keys and values of a fixed number of tokens. The KV cache is made of blocks.",
     ("What is a block?", "What is the KV cache made of?", "What does a block hold?", "Explain blocks in the KV cache.", "What is a KV block?")),
    ("prefix cache", "The prefix cache keeps the KV blocks of past prompts, so that requests which start alike compute the shared part once.",
     ("What is the prefix cache?", "What does prefix caching do?", "Why is prefix caching useful?", "What happens to the blocks of past prompts?", "Explain prefix caching.")),
    ("enable_prefix_caching", "Pass enable_prefix_caching=False to switch the prefix cache off.",
     ("How do I switch off the prefix cache?", "How can I disable prefix caching?", "Which setting turns off prefix caching?", "How do I turn the prefix cache off?", "Can I disable the prefix cache?")),
    ("aphrodite plugins", "Run aphrodite plugins. It lists what is installed, its state, and why.",
     ("How do I list plugins?", "Which command shows the plugins?", "How do I see what is installed?", "How can I check the state of a plugin?", "Show me the plugins.")),
    ("aphrodite explain", "Run aphrodite explain with your model. It shows which kernel serves each place and why the others do not.",
     ("Which kernel is used?", "How do I see which kernel is chosen?", "How can I find out why a kernel was refused?", "Which command explains the kernels?", "Why is a kernel not used?")),
    ("aphrodite generate", 'Run aphrodite generate demo --prompt "Once upon a time" to continue a prompt.',
     ("How do I generate text?", "How can I continue a prompt?", "Which command generates text?", "How do I run a prompt?", "How do I use the command line to write text?")),
    ("aphrodite chat", "Run aphrodite chat demo to talk with the demo model.",
     ("How do I chat with a model?", "How do I talk to the demo model?", "Which command starts a chat?", "How can I chat in the terminal?", "Is there a chat command?")),
    ("pip install aphrodite-demo", "Run pip install aphrodite-demo to install the demo models.",
     ("How do I install the demo model?", "How do I get the demo models?", "Which package has the demo model?", "Where do the demo models come from?", "What do I install to try the demo?")),
    ("from aphrodite import LLM", "Write from aphrodite import LLM, make LLM(\"demo\"), and call generate with your prompts.",
     ("How do I use Aphrodite in Python?", "How do I use it as a library?", "How do I load a model in Python?", "Show me how to call Aphrodite from Python.", "What is the Python class for a model?")),
    ("SamplingParams", "SamplingParams says how tokens are drawn: temperature, top_p, top_k, seed, max_tokens and more.",
     ("What is SamplingParams?", "How do I set the temperature?", "Where do I set top_p?", "How do I set a seed?", "Which class holds the sampling parameters?")),
    ("temperature", "At temperature 0 the likeliest token is taken each time; higher temperatures make the draw more varied.",
     ("What is temperature?", "What does the temperature do?", "What happens at temperature 0?", "Explain the temperature.", "Why should I lower the temperature?")),
    ("Philox", "A draw is keyed by the seed of the request and the position of the token, with Philox random numbers.",
     ("How are random numbers made?", "Which random numbers does Aphrodite use?", "How is a draw keyed?", "What makes a draw repeatable?", "How are tokens drawn?")),
    ("alone", "The output of a request depends on the request alone: its neighbours in a batch change nothing.",
     ("Do other requests change my output?", "Does batching change the result?", "On what does the output of a request depend?", "Is the output the same in a batch?", "Can neighbours change a request?")),
    ("Apache-2.0", "Aphrodite has the licence Apache-2.0.",
     ("Which licence does Aphrodite have?", "What is the license?", "Is Aphrodite open source?", "Under which licence is it?", "What licence is the project under?")),
    ("3.11", "Aphrodite runs with Python 3.11 to 3.13.",
     ("Which Python do I need?", "Which versions of Python work?", "What Python version does Aphrodite need?", "Does it run on Python 3.12?", "Which Python is supported?")),
    ("safetensors", "Weights are read from safetensors files, in one file or in shards.",
     ("Which weight files are read?", "What format do the weights have?", "How are weights stored?", "Can it read safetensors?", "Which checkpoint format is used?")),
    ("config.json", "A model is a folder with config.json, safetensors and tokenizer.json, or a name on the hub.",
     ("What is a model folder?", "Which files does a model need?", "What must a checkpoint folder contain?", "What do I pass as the model?", "Which files make a model?")),
    ("toy", "The toy plugin is a complete back end on host memory: an example, a canary and a template for authors.",
     ("What is the toy plugin?", "What is plugins/toy?", "What is the toy device for?", "Is there an example plugin?", "Where is a template for a plugin?")),
    ("nox", "Run nox -s tests to run the tests.",
     ("How do I run the tests?", "Which command runs the tests?", "How can I test Aphrodite?", "How are the tests started?", "What runs the test suite?")),
    ("finish_reason", 'finish_reason is "stop", "length" or "error".',
     ("What is finish_reason?", "Which finish reasons are there?", "How do I know why the text ended?", "What does finish_reason say?", "Why did the generation end?")),
    ("max_tokens", "max_tokens is the largest number of tokens that a request may generate.",
     ("What is max_tokens?", "How do I limit the length?", "How long can an answer be?", "Which parameter limits the output?", "What does max_tokens do?")),
    ("max_model_len", "max_model_len is the longest sequence that the engine accepts, prompt and output together.",
     ("What is max_model_len?", "How long can a sequence be?", "Which setting limits the sequence?", "What does max_model_len mean?", "How do I set the longest sequence?")),
    ("4 model cannot be loaded", "The exit codes are 0 ok, 1 failed, 2 wrong usage, 3 does not fit in memory, 4 model cannot be loaded.",
     ("What are the exit codes?", "Which exit codes are there?", "What does exit code 4 mean?", "What does exit code 3 mean?", "Explain the exit codes.")),
    ("Llama", "It runs Llama, Mistral, Mixtral, Qwen 2 and 3, Phi-3, StarCoder 2, Command R, Gemma 2 and Gemma 3.",
     ("Which models run?", "Which models are supported?", "Which families does Aphrodite know?", "Can it run Llama?", "Does it run Gemma?", "Which architectures can I use?")),
    ("CPU", "Without any plugin the core runs on the CPU with plain torch.",
     ("Does it run without a GPU?", "Can I use it on a CPU?", "What happens without a plugin?", "Do I need a GPU?", "On which device does the core run alone?")),
    ("millions of parameters", "I have about seven millions of parameters, which is very few for a language model.",
     ("How big are you?", "How many parameters do you have?", "What is your size?", "Are you a large model?", "How large is the demo model?")),
    ("draft", "demo-draft is a smaller model with the same tokenizer. It drafts tokens that demo then checks.",
     ("What is demo-draft?", "What is the draft model for?", "Which model drafts tokens?", "Why are there two demo models?", "What does demo-draft do?")),
)  # fmt: skip


def exchange(rng: random.Random, held_out: bool) -> Exchange:
    """A question whose phrasing is on the right side of the split."""
    while True:
        key, reply, questions = _FACTS[rng.randrange(len(_FACTS))]
        question = any_of(rng, questions)
        if is_held_out("project", question) == held_out:
            return Exchange("project", question, reply, "text", key)
