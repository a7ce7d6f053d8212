from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
import redis

from shared.connections import run
from shared.errors import InsufficientCredits, InvalidRequest, ModelFailed, NotFound, TooManyRequests
from shared.ids import TeamId, UserId
from shared.job_store import JobStore
from shared.jobs import Flagged, JobRecord
from shared.teams import (
    STARTING_CREDIT,
    TeamUser,
    create_team,
    ensure_user,
    get_team,
    get_user,
    list_teams,
    set_credit,
    set_limit,
    webhook_secret,
)
from shared.transitions import Transition, cancel, erase, fail, fail_attempt, finish, hand_back
from tests.queues import queued_jobs
from tests.samples import MODEL, NOW, PRICE, fund, record, start, variations_of
from tests.together import run_together

STORE = JobStore(timedelta(seconds=9))
TEAM, USER = TeamId("team"), UserId("user")


def left(records: redis.Redis, team_id: TeamId = TEAM, user_id: UserId = USER) -> tuple[int, int]:
    """What a team and its user have left."""
    return run(records, get_team(team_id)).credit, run(records, get_user(user_id)).credit_left


def job_of(user: TeamUser, price: int = PRICE) -> JobRecord:
    return record().model_copy(update={"team_id": user.team_id, "user_id": user.user_id, "price": price})


def test_a_team_is_made_once_and_listed_by_name(records: redis.Redis) -> None:
    for name, credit in (("shop", 7), ("lake", 0)):
        run(records, create_team(name, credit))
    with pytest.raises(InvalidRequest, match="there is a team 'shop' already"):
        run(records, create_team("shop", 9))
    run(records, ensure_user("farm", "Ada"))
    listed = [(team.name, team.credit) for team in run(records, list_teams())]
    assert listed == [("farm", STARTING_CREDIT), ("lake", 0), ("shop", 7)]


def test_a_users_first_sight_makes_it_and_its_team_and_the_first_is_the_admin(records: redis.Redis) -> None:
    run(records, create_team("shop", 7))
    ada, bob = (run(records, ensure_user("shop", name)) for name in ("Ada", "Bob"))
    assert (ada.role, bob.role) == ("ADMIN", "MEMBER")
    assert run(records, ensure_user("shop", "Ada")) == ada
    assert run(records, get_team(ada.team_id)).credit == 7
    assert (ada.credit_limit, ada.used_credit) == (STARTING_CREDIT, 0)


def test_twenty_first_sights_at_once_make_one_user(records: redis.Redis, valkey: str) -> None:
    users = run_together(valkey, (ensure_user("shop", "Ada") for _ in range(20)))
    assert all(user == users[0] for user in users)
    assert users[0].role == "ADMIN"
    [team] = run(records, list_teams())
    assert (team.id, team.credit) == (users[0].team_id, STARTING_CREDIT)


def test_who_does_not_exist_has_nothing(records: redis.Redis) -> None:
    run(records, create_team("shop", 7))
    for program, said in (
        (set_credit("farm", 1), "there is no team 'farm'"),
        (set_limit("farm", "Ada", 1), "there is no team 'farm'"),
        (set_limit("shop", "Ada", 1), "there is no user 'Ada' in the team 'shop'"),
        (get_team(TeamId("nobody")), "there is no team nobody"),
        (get_user(UserId("nobody")), "there is no user nobody"),
    ):
        with pytest.raises(NotFound, match=said):
            run(records, program)


def test_a_job_that_the_team_cannot_pay_is_refused_with_both_numbers(records: redis.Redis) -> None:
    fund(records, team_credit=35)
    job = record().model_copy(update={"price": 105})
    said = "^The feature requires 105 credits, but the lab team only has 35 credits$"
    with pytest.raises(InsufficientCredits, match=said):
        run(records, STORE.accept(job))
    assert run(records, STORE.get(job.id)) is None
    assert left(records) == (35, 1_000_000)
    assert run(records, STORE.accept(job.model_copy(update={"price": 35}))) == job.id
    assert left(records) == (0, 1_000_000 - 35)


def test_a_job_beyond_the_users_limit_is_refused_though_the_team_could_pay(records: redis.Redis) -> None:
    fund(records, user_credit=PRICE - 1)
    said = "^The feature requires 1000 credits, but the user Ada of the lab team only has 999 credits$"
    with pytest.raises(InsufficientCredits, match=said):
        run(records, STORE.accept(record()))
    assert left(records) == (1_000_000, PRICE - 1)


def test_twenty_jobs_at_once_with_credit_for_three_are_exactly_three(records: redis.Redis, valkey: str) -> None:
    fund(records, team_credit=3 * PRICE + 999)
    outcomes = run_together(valkey, (STORE.accept(record()) for _ in range(20)))
    assert [type(outcome) for outcome in outcomes].count(InsufficientCredits) == 17
    assert sorted(run(records, queued_jobs())) == sorted(found for found in outcomes if isinstance(found, str))
    assert left(records) == (999, 1_000_000 - 3 * PRICE)


def test_everybody_who_asks_first_for_a_webhook_secret_is_told_the_same(records: redis.Redis, valkey: str) -> None:
    ada, bob = (run(records, ensure_user(team, "Ada")) for team in ("shop", "lake"))
    (secret,) = set(run_together(valkey, (webhook_secret(ada.team_id) for _ in range(20))))
    assert run(records, webhook_secret(bob.team_id)) != secret
    assert secret not in repr(run(records, get_team(ada.team_id)))


def test_a_teams_credit_is_what_it_has_to_spend_from_now_on(records: redis.Redis) -> None:
    ada = run(records, ensure_user("shop", "Ada"))
    run(records, STORE.accept(job_of(ada)))
    run(records, set_credit("shop", PRICE))
    run(records, STORE.accept(job_of(ada)))
    assert left(records, ada.team_id, ada.user_id) == (0, STARTING_CREDIT - 2 * PRICE)
    with pytest.raises(InsufficientCredits, match="the shop team only has 0 credits"):
        run(records, STORE.accept(job_of(ada, 1)))


def test_a_users_limit_is_what_it_may_use_in_all(records: redis.Redis) -> None:
    ada, bob = (run(records, ensure_user("shop", name)) for name in ("Ada", "Bob"))
    run(records, STORE.accept(job_of(ada)))
    for most, said in ((PRICE + 500, 500), (500, 0)):
        run(records, set_limit("shop", "Ada", most))
        with pytest.raises(InsufficientCredits, match=f"the user Ada of the shop team only has {said} credits"):
            run(records, STORE.accept(job_of(ada)))
    run(records, STORE.accept(job_of(bob)))
    run(records, set_limit("shop", "Ada", 2 * PRICE))
    run(records, STORE.accept(job_of(ada)))
    after = run(records, get_user(ada.user_id))
    assert (after.credit_limit, after.credit_left, after.used_credit) == (2 * PRICE, 0, 2 * PRICE)


def test_a_limit_that_changes_while_jobs_come_loses_none_of_their_prices(records: redis.Redis, valkey: str) -> None:
    ada = run(records, ensure_user("shop", "Ada"))
    jobs = [STORE.accept(job_of(ada)) for _ in range(10)]
    run_together(valkey, [*jobs[:5], *(set_limit("shop", "Ada", most * PRICE) for most in range(20, 25)), *jobs[5:]])
    assert run(records, get_user(ada.user_id)).used_credit == 10 * PRICE


def test_a_team_with_too_many_open_jobs_waits_until_one_ends(records: redis.Redis) -> None:
    first, second, third = record(), record(), record()
    for job in (first, second):
        run(records, STORE.accept(job, most_open=2))
    run(records, STORE.update(first.id, start))
    with pytest.raises(TooManyRequests, match="the team has 2 jobs that wait or run") as refused:
        run(records, STORE.accept(third, most_open=2))
    assert 1 <= refused.value.retry_after <= 60
    assert left(records) == (1_000_000 - 2 * PRICE,) * 2
    run(records, STORE.update(first.id, partial(hand_back, attempt=1, now=NOW)))
    with pytest.raises(TooManyRequests):
        run(records, STORE.accept(third, most_open=2))
    run(records, STORE.update(second.id, partial(cancel, now=NOW)))
    assert run(records, STORE.accept(third, most_open=2)) == third.id
    other = run(records, ensure_user("shop", "Ada"))
    assert run(records, STORE.accept(job_of(other), most_open=1))


def test_twenty_jobs_at_once_do_not_pass_the_most_that_may_be_open(records: redis.Redis, valkey: str) -> None:
    outcomes = run_together(valkey, (STORE.accept(record(), most_open=5) for _ in range(20)))
    assert [type(outcome) for outcome in outcomes].count(TooManyRequests) == 15
    assert left(records) == (1_000_000 - 5 * PRICE,) * 2


def canceled(_: JobRecord) -> Transition:
    return partial(cancel, now=NOW)


def failed(job: JobRecord) -> Transition:
    return partial(fail, attempt=job.attempt, error=ModelFailed("broken"), now=NOW)


def failed_too_often(job: JobRecord) -> Transition:
    return partial(fail_attempt, attempt=job.attempt, reason="silent", limit=1, now=NOW)


def delivered(count: int, job: JobRecord) -> Transition:
    made, flagged = variations_of(job)[:count], tuple(Flagged(seed=s, score=0.9) for s in job.parameters.seeds[count:])
    return partial(finish, attempt=1, variations=made, flagged=flagged, model=MODEL, timings={}, now=NOW)


ENDS: list[tuple[Callable[[JobRecord], Transition], int]] = [
    (canceled, 0),
    (failed, 0),
    (failed_too_often, 0),
    (partial(delivered, 1), 334),  # a third of 1000, rounded up
    (partial(delivered, 2), 667),
    (partial(delivered, 3), 1000),
]


@pytest.mark.parametrize(("end", "charged"), ENDS)
def test_a_jobs_end_gives_back_what_was_not_used_and_only_once(
    records: redis.Redis, valkey: str, end: Callable[[JobRecord], Transition], charged: int
) -> None:
    job = record(num_outputs=3)
    run(records, STORE.accept(job))
    running = run(records, STORE.update(job.id, start))
    assert left(records) == (1_000_000 - PRICE,) * 2
    ended = run_together(valkey, (STORE.update(job.id, end(running)) for _ in range(5)))
    assert {(done.finished, done.charged) for done in ended} == {(True, charged)}
    for again in (end(running), partial(cancel, now=NOW), partial(erase, now=NOW), partial(erase, now=NOW)):
        run(records, STORE.update(job.id, again))
    assert left(records) == (1_000_000 - charged,) * 2
    assert run(records, get_user(USER)).used_credit == charged


def test_a_job_that_is_canceled_in_the_queue_costs_nothing(records: redis.Redis) -> None:
    job = record()
    run(records, STORE.accept(job))
    for _ in range(2):
        run(records, STORE.update(job.id, partial(cancel, now=NOW)))
    assert left(records) == (1_000_000, 1_000_000)


def test_an_attempt_that_goes_back_to_the_queue_keeps_its_price_reserved(records: redis.Redis) -> None:
    job = record()
    run(records, STORE.accept(job))
    run(records, STORE.update(job.id, start))
    run(records, STORE.update(job.id, partial(fail_attempt, attempt=1, reason="silent", limit=3, now=NOW)))
    run(records, STORE.update(job.id, start))
    run(records, STORE.update(job.id, partial(hand_back, attempt=2, now=NOW)))
    assert left(records) == (1_000_000 - PRICE,) * 2
