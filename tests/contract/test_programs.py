"""What a program may rely on, run by either client."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from redis.exceptions import ResponseError

from shared.connections import LINES, AsyncClient, connect, connect_async, connect_shared, run, run_async
from shared.errors import RecordsUnavailable
from shared.programs import Program, Step, together
from tests import servers

Runner = Callable[[str, Program[Any]], Any]
Connect = Callable[[str], AbstractAsyncContextManager[AsyncClient]]


def run_blocking(url: str, program: Program[Any]) -> Any:
    with connect(url) as client:
        return run(client, program)


def run_on_a_loop(url: str, program: Program[Any]) -> Any:
    async def run_it() -> Any:
        async with connect_async(url) as client:
            return await run_async(client, program)

    return asyncio.run(run_it())


def ask(*steps: Step) -> Program[list[Any]]:
    """Return the answers to all steps."""
    answers = []
    for step in steps:
        answers.append((yield step))  # noqa: PERF401  no generator may yield in a comprehension
    return answers


def run_shared(url: str, program: Program[Any]) -> Any:
    async def run_it() -> Any:
        async with connect_shared(url) as client:
            return await run_async(client, program)

    return asyncio.run(run_it())


@pytest.fixture(params=[run_blocking, run_on_a_loop, run_shared])
def runner(request: pytest.FixtureRequest) -> Runner:
    chosen: Runner = request.param
    return chosen


def test_a_list_of_commands_is_answered_by_a_list(valkey: str, runner: Runner) -> None:
    assert runner(valkey, ask([("SET", "a", 1), ("GET", "a")], ("GET", "a"), [])) == [[True, "1"], "1", []]


def test_the_first_error_in_a_list_is_raised_as_it_is(valkey: str, runner: Runner) -> None:
    runner(valkey, ask(("SET", "text", "x")))
    with pytest.raises(ResponseError) as alone:
        runner(valkey, ask(("INCR", "text")))
    with pytest.raises(ResponseError) as listed:
        runner(valkey, ask([("GET", "text"), ("INCR", "text"), ("SET", "after", 1)]))
    assert str(listed.value) == str(alone.value)
    assert runner(valkey, ask(("GET", "after"))) == ["1"], "a list is no transaction"


def test_a_list_is_sent_again_when_its_connection_broke(valkey: str) -> None:
    with connect(valkey) as client, connect(valkey) as other:
        run(client, ask(("PING",)))
        other.client_kill_filter(_type="normal", skipme=True)
        assert run(client, ask([("PING",), ("PING",)])) == [[True, True]]


@pytest.mark.parametrize("connected", [connect_async, connect_shared])
def test_a_list_is_sent_again_on_a_loop_too(valkey: str, connected: Connect) -> None:
    async def break_and_ask(connected: Connect) -> Any:
        async with connected(valkey) as client:
            await run_async(client, ask([("PING",)]))
            with connect(valkey) as other:
                other.client_kill_filter(_type="normal", skipme=True)
            return await run_async(client, ask([("PING",), ("PING",)]))

    assert asyncio.run(break_and_ask(connected)) == [[True, True]]


def test_a_server_that_is_away_is_told_for_a_list_too(runner: Runner) -> None:
    with pytest.raises(RecordsUnavailable, match="does not answer"):
        runner(f"redis://127.0.0.1:{servers.free_port()}", ask([("PING",)]))


def test_a_server_that_takes_no_writes_is_told_for_a_list_too(valkey: str, runner: Runner) -> None:
    runner(valkey, ask(("CONFIG", "SET", "maxmemory", 1)))
    with pytest.raises(RecordsUnavailable, match="takes no writes"):
        runner(valkey, ask([("GET", "a"), ("SET", "a", 1)]))


def test_programs_that_run_together_have_their_own_answers_and_end_when_they_like(valkey: str, runner: Runner) -> None:
    programs = [
        ask(("SET", "a", 1), ("INCR", "a")),
        ask(),
        ask([("ECHO", "x"), ("ECHO", "y")], ("ECHO", "z"), []),
        ask([]),
    ]
    assert runner(valkey, together(programs)) == [[True, 2], [], [["x", "y"], "z", []], [[]]]
    assert runner(valkey, together([])) == []


def test_programs_that_run_together_ask_in_one_go(valkey: str) -> None:
    told = next(together([ask(("ECHO", "x")), ask([("ECHO", "y"), ("ECHO", "z")])]))
    assert told == [("ECHO", "x"), ("ECHO", "y"), ("ECHO", "z")]


def test_callers_that_share_a_connection_get_their_own_answers_and_errors(valkey: str) -> None:
    async def ask_together() -> tuple[list[Any], int]:
        async with connect_shared(valkey) as client:
            programs = [ask(("ECHO", number), [("ECHO", -number)]) for number in range(100)]
            faulty = ask(("INCR", "text"))
            await run_async(client, ask(("SET", "text", "x")))
            gone = asyncio.create_task(run_async(client, ask(("ECHO", "gone"))))
            waiting = [asyncio.create_task(run_async(client, each)) for each in (*programs, faulty)]
            await asyncio.sleep(0)
            gone.cancel()
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            with connect(valkey) as other:
                clients: Any = other.client_list(_type="normal")
            return answers, len(clients)

    (*answers, error), clients = asyncio.run(ask_together())
    assert answers == [[str(number), [str(-number)]] for number in range(100)]
    assert isinstance(error, ResponseError)
    assert clients <= LINES + 1, "they share, and one counts them"


def test_all_who_share_a_connection_learn_in_time_that_the_server_is_frozen_and_get_no_late_answers(
    valkey: str,
) -> None:
    async def ask_frozen(pid: int) -> list[Any]:
        async with connect_shared(valkey) as client:
            await run_async(client, ask(("PING",)))
            os.kill(pid, signal.SIGSTOP)
            early = asyncio.create_task(run_async(client, ask(("ECHO", "early"))))
            await asyncio.sleep(1)
            began = asyncio.get_running_loop().time()
            late = [run_async(client, ask(("ECHO", "late"))) for _ in range(20)]
            refused = await asyncio.gather(early, *late, return_exceptions=True)
            seconds = asyncio.get_running_loop().time() - began
            os.kill(pid, signal.SIGCONT)
            return [refused, seconds, await run_async(client, ask(("ECHO", "thawed")))]

    with connect(valkey) as other:
        info: Any = other.info("server")
    refused, seconds, thawed = asyncio.run(ask_frozen(info["process_id"]))
    assert {type(error) for error in refused} == {RecordsUnavailable}
    assert seconds < 2
    assert thawed == ["thawed"]
