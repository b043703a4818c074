"""What no shipped file may do: unpickle, run text as code, hand text to a shell, listen to the whole network."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = ("core/src", "plugins", "kernels-cpu/src", "examples/demo_model/src")
MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "jsonpickle", "pty", "telnetlib"}
CALLS = {
    "eval", "exec", "compile", "__import__",
    "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "tempfile.mktemp",
    "yaml.load", "yaml.unsafe_load", "yaml.full_load", "torch.load", "torch.hub.load", "numpy.load", "np.load",
    "ssl._create_unverified_context",
}  # fmt: skip
KEYWORDS = {
    ("shell", True),
    ("verify", False),
    ("allow_pickle", True),
    ("trust_remote_code", True),
    ("weights_only", False),
}
EVERYWHERE = {"0.0.0.0", "::"}  # a default that anybody may reach; that a user may ask for it is said in words


def found(source: str) -> Iterator[str]:
    """What of it stands in a file."""
    tree = ast.parse(source)
    compared = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Compare) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (name for name in names if name.partition(".")[0] in MODULES)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if called in CALLS:
                yield called
            for keyword in node.keywords:
                if isinstance(keyword.value, ast.Constant) and (keyword.arg, keyword.value.value) in KEYWORDS:
                    yield f"{keyword.arg}={keyword.value.value}"
        if isinstance(node, ast.Constant) and node.value in EVERYWHERE and id(node) not in compared:
            yield node.value


def test_no_shipped_file_holds_any_of_it(repository: Path) -> None:
    files = [path for folder in SOURCES for path in (repository / folder).rglob("*.py")]
    assert len(files) > 150
    wrong = {str(path.relative_to(repository)): list(found(path.read_text(encoding="utf-8"))) for path in files}
    assert {path: what for path, what in wrong.items() if what} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from cloudpickle import loads",
        "def f():\n    import marshal as m",
        "eval(text)",
        "torch.load(path)",
        "yaml.load(text, Loader=L)",
        "os.system(command)",
        "subprocess.run(command, shell=True)",
        "httpx.get(url, verify=False)",
        "AutoTokenizer.from_pretrained(folder, trust_remote_code=True)",
        "sock.bind(('0.0.0.0', port))",
    ],
)
def test_each_would_be_found(source: str) -> None:
    assert list(found(source))


def test_what_is_like_them_is_no_fault() -> None:
    assert not list(found("yaml.safe_load(text)\nmodel.eval()\nre.compile(x)\nrun(c, shell=False)\nhost == '0.0.0.0'"))
