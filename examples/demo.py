"""Tell a story, do a sum, read fields into JSON, and remember a name, with the small model that aphrodite-demo brings.

Run it with `nox -s demo`, or `python examples/demo.py` where the packages are installed. Nothing is downloaded: the
model (7.6 million parameters; docs/demo.md tells how it was made) is a folder in the package.
"""

from __future__ import annotations

from aphrodite import LLM, SamplingParams

STORY = "Once upon a time"
QUESTIONS = ("My name is Anna.", "What is 27 + 48?", "What is my name?")
LETTER = "Tom Baker is 34 years old and lives in London. Give the name, age and city as JSON."


def main() -> None:
    """Load, generate, print."""
    greedy = SamplingParams(temperature=0.0, max_tokens=80)
    with LLM("demo", max_num_seqs=4) as llm:
        device = llm.blueprint.entry
        print(f"demo on {device.info.device} ({device.info.name}), served by the {device.plugin} plugin\n")

        told = llm.generate(STORY, SamplingParams(temperature=0.7, seed=1, max_tokens=100))[0]
        print(f"{STORY}{told.outputs[0].text}\n")

        messages: list[dict[str, str]] = []
        for question in QUESTIONS:
            messages.append({"role": "user", "content": question})
            answer = llm.chat(messages, greedy)[0].outputs[0].text
            messages.append({"role": "assistant", "content": answer})
        messages += [{"role": "user", "content": LETTER}]
        messages += [{"role": "assistant", "content": llm.chat(messages[-1:], greedy)[0].outputs[0].text}]
    for message in messages:
        print(f"{message['role']:>9}  {message['content']}")
    print('\nnext: aphrodite chat demo, or aphrodite generate YOUR_MODEL --prompt "Once upon a time"')


if __name__ == "__main__":
    main()
