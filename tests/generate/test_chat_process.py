"""Templates that do not end, that want all memory, that crash: each costs its own request only."""

import os
import signal
import subprocess
import sys
import textwrap
import warnings

import psutil
import pytest
from byte_tokenizer import byte_tokenizer

from nspjax.errors import NspjaxError, RequestError
from nspjax.generate.limited_process import child, parent
from nspjax.generate.text import chat_process
from nspjax.generate.text.chat_process import ChatProcess
from nspjax.generate.text.chat_template import ChatTemplate

GOOD = "{{ messages[-1].content }}"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def shared():
    process = ChatProcess()
    yield process
    process.close()


def said(content="x"):
    return [{"role": "user", "content": content}]


def render(process, source, content="x"):
    return process.render(source, said(content), {})


def workers():
    return [
        p for p in psutil.Process().children() if "nspjax.generate.text.chat_worker" in p.cmdline()
    ]


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% for i in range(200000) %}{% endfor %}", "OverflowError"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "RecursionError"),
        ("{{ 'x' * 10 ** 12 }}", "MiB of memory"),
        ("{% if %}", "TemplateSyntaxError"),
        ("{{ nothing.at.all }}", "UndefinedError"),
        ("{{ messages.__class__.__mro__ }}", "SecurityError"),
        ("{% include '/etc/passwd' %}", "TypeError|no loader"),
        ("{{ 'x' * 40000000 }}", "wrote more than 33554432 characters"),
        ("{{ raise_exception('y' * 100000) }}", "refuses the messages: y"),
        ("{{ (10 ** 5000) | string }}", "ValueError"),
    ],
    ids=lambda text: text[:30],
)
def test_what_a_template_raises_is_the_requests_error(shared, source, complaint):
    with pytest.raises(RequestError, match=complaint) as error:
        render(shared, source)
    assert len(str(error.value)) < 500
    assert render(shared, GOOD, "next") == "next"


def test_any_text_comes_through(shared):
    for content in ("é😀\0\n", "\ud800", "", "z" * 5_000_000):
        assert render(shared, GOOD, content) == content


@pytest.mark.parametrize("source", [ENDLESS, "{{ 9 ** (9 ** 9) }}"], ids=["loop", "in C"])
def test_a_template_that_does_not_end_is_ended(monkeypatch, source):
    monkeypatch.setattr(chat_process, "RENDER_SECONDS", 0.5)
    before, process = workers(), ChatProcess()
    with pytest.raises(RequestError, match=r"took more than 0\.5 s"):
        render(process, source)
    assert workers() == before
    monkeypatch.setattr(chat_process, "RENDER_SECONDS", 10.0)
    assert render(process, GOOD) == "x"
    process.close()


def test_a_process_that_died_between_two_conversations_is_replaced(shared):
    assert render(shared, GOOD) == "x"
    (worker,) = workers()
    worker.kill()
    psutil.wait_procs([worker], timeout=1)  # a zombie is as good as dead
    assert render(shared, GOOD) == "x"
    (other,) = workers()
    assert other.pid != worker.pid


def test_a_conversation_that_kills_the_process_is_named(shared, monkeypatch):
    """The first process may have died before; the second one shows who did it."""
    assert render(shared, GOOD) == "x"
    killed = []

    def send_and_kill(connection, content):
        child.send(connection, content)
        for worker in workers():
            worker.kill()
            killed.append(worker)

    with monkeypatch.context() as patch:
        patch.setattr(parent, "send", send_and_kill)
        with pytest.raises(RequestError, match=r"ended its process.*SIGKILL.*1024 MiB"):
            render(shared, ENDLESS)
    assert len(killed) == 2
    assert render(shared, GOOD) == "x"


def test_an_interrupt_while_it_renders_leaves_no_answer_behind(shared, monkeypatch):
    assert render(shared, GOOD) == "x"

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(parent, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            render(shared, GOOD, "old")
    assert render(shared, GOOD, "new") == "new"


def test_a_process_that_cannot_be_started_is_no_fault_of_the_request(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(NspjaxError, match="cannot be started") as error:
        render(ChatProcess(), GOOD)
    assert not isinstance(error.value, RequestError)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(NspjaxError, match="cannot be started: it ended with exit code 1"):
        render(ChatProcess(), GOOD)


def test_it_starts_with_the_first_conversation_and_ends_with_the_template():
    before = workers()
    template = ChatTemplate(byte_tokenizer(chat_template=GOOD))
    assert workers() == before
    assert template.render(said("x")) == "x"
    assert len(workers()) == len(before) + 1
    template.close()
    template.close()
    assert workers() == before
    template.render(said("x"))
    del template  # without close: nothing is left either
    assert workers() == before


def test_a_forked_child_has_a_process_of_its_own(shared):
    assert render(shared, GOOD) == "x"
    (worker,) = workers()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # JAX's threads
        child = os.fork()
    if child == 0:
        try:
            rendered, n_own = render(shared, GOOD, "child"), len(workers())
            shared.close()
            os._exit(0 if (rendered, n_own, len(workers())) == ("child", 1, 0) else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0
    assert render(shared, GOOD, "parent") == "parent"
    assert [each.pid for each in workers()] == [worker.pid]


@pytest.mark.parametrize("source", [GOOD, ENDLESS], ids=["idle", "busy"])
def test_nothing_is_left_when_our_process_is_killed(source):
    script = f"""
        import threading, time
        from nspjax.generate.text.chat_process import ChatProcess
        process = ChatProcess()
        process.render({GOOD!r}, {said()!r}, {{}})
        threading.Timer(0.3, print, ["ready"], {{"flush": True}}).start()
        process.render({source!r}, {said()!r}, {{}})
        time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE
    ) as ours:
        assert ours.stdout.readline() == b"ready\n"
        (worker,) = psutil.Process(ours.pid).children()
        ours.send_signal(signal.SIGKILL)
    gone, _ = psutil.wait_procs([worker], timeout=5)
    assert gone


def test_a_file_beside_which_we_run_is_no_module(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    process = ChatProcess()
    assert render(process, GOOD) == "x"
    process.close()


def test_the_process_loads_no_jax():
    script = "import sys, nspjax.generate.text.chat_worker; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
