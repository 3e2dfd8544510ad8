"""The inspector in a real browser: every view, as a person goes through it, light and dark, wide and narrow."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright
from support_server import serve_in_process

from agent_memory import Memory
from agent_memory.server.settings import Settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DEMO = Path(__file__).parents[2] / "examples" / "demo" / "conversation.jsonl"
SHOTS = os.environ.get("AGENT_MEMORY_SCREENSHOTS")

# Where a browser must be, a missing one fails the tests instead of skipping them.
NEEDED = bool(os.environ.get("AGENT_MEMORY_NEEDS_CHROMIUM"))
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None and not NEEDED, reason="no Chromium is installed: the inspector was not tested in a browser"
    ),
    pytest.mark.slow,
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A server of the demo's conversation, with a second scope, an update and an expired entry."""
    folder = tmp_path_factory.mktemp("inspected") / "store"

    def open_memory() -> Memory:
        memory = Memory(folder)
        if not memory.stats().entries:
            memory.import_(DEMO)
            memory.add("Alice lives in Berlin.", key="home", speaker="alice", metadata={"topic": "home", "year": 2024})
            memory.update("home", text="Alice lives in Porto now.")
            memory.add(
                "Bob is allergic to peanuts.", key="health", namespace=("acme", "bob"), metadata={"topic": "health"}
            )
        return memory

    with serve_in_process(open_memory, Settings()) as served:
        yield served


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=["light-1280", "dark-390"])
def page(request, browser, demo):
    with open_page(browser, demo, request.param) as page:
        yield page


@contextmanager
def open_page(browser, demo, name: str) -> Iterator[Page]:
    """Open a page that fails the test if it logs an error, or asks anybody but its server."""
    scheme, width = name.split("-")
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": int(width), "height": 900}, base_url=demo.url, reduced_motion="reduce"
    )
    page = context.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith((demo.url, "blob:")) else faults.append(asked.url))
    page.name = name
    yield page
    context.close()
    assert not faults


def look(page: Page, name: str) -> None:
    """Check what is shown: nothing wider than the window, nothing that axe finds serious."""
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}-{page.name}.png", full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), (
        f"{name} is wider than the window"
    )
    found = Axe().run(page).response["violations"]
    serious = [
        (fault["id"], [node["html"][:160] for node in fault["nodes"]])
        for fault in found
        if fault["impact"] in ("serious", "critical")
    ]
    assert not serious


@pytest.mark.parametrize("name", ["dark-1280", "light-390"])
def test_every_view_is_readable_in_the_other_colours_and_widths(browser, demo, name):
    with open_page(browser, demo, name) as page:
        for place, heading in [
            ("/", "Browse"),
            ("/#/entry?key=home", "home"),
            ("/#/recall?q=Where%20does%20Alice%20live%3F", "Recall"),
            ("/#/session", "Session"),
            ("/#/operations", "Operations"),
        ]:
            page.goto(place)
            expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
            expect(page.locator("[aria-busy=true]")).to_have_count(0)
            look(page, heading.lower())


def test_a_person_finds_an_entry_by_its_filters_and_reads_its_history(page):
    page.goto("/")
    expect(page.get_by_role("heading", name="Browse")).to_be_visible()
    entries = page.get_by_role("region", name="Entries")
    expect(entries.get_by_role("listitem").first).to_be_visible()
    look(page, "browse")
    page.get_by_text("Metadata", exact=True).click()
    page.get_by_label("Field").fill("topic")
    page.get_by_label("Value").fill("home")
    page.get_by_role("button", name="Add condition").click()
    expect(entries.get_by_text("1 entry", exact=True)).to_be_visible()
    assert page.get_by_label("Metadata filter as JSON").input_value() == '{"topic":"home"}'
    entries.get_by_role("link").first.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="home", exact=True)).to_be_visible()
    history = page.get_by_role("region", name="History")
    expect(history.get_by_text("2 versions")).to_be_visible()
    assert history.locator("del").all_inner_texts() == ["Berlin."]
    assert "".join(history.locator("ins").all_inner_texts()).split() == ["Porto", "now."]
    look(page, "entry")


def test_entries_that_took_the_place_of_each_other_lead_to_each_other(page, demo):
    bob = ("acme", "bob")
    for key, day in (("monday", "Monday"), ("tuesday", "Tuesday")):
        demo.memory.add(f"The rehearsal is on {day}.", key=key, namespace=bob)
    demo.memory.supersede("monday", "tuesday", namespace=bob)
    page.goto("/#/entry?key=monday&namespace=acme&namespace=bob")
    history = page.get_by_role("region", name="History")
    expect(history.get_by_text("Its place was taken by")).to_be_visible()
    history.get_by_role("link", name="tuesday").click()
    expect(page.get_by_role("heading", name="tuesday", exact=True)).to_be_visible()
    expect(history.get_by_text("It took the place of")).to_be_visible()
    history.get_by_role("link", name="monday").click()
    expect(page.get_by_text("The rehearsal is on Monday.").first).to_be_visible()
    demo.memory.forget("tuesday", namespace=bob)


def test_a_long_text_is_shown_with_its_passages(page, demo):
    if not demo.memory.get_many(["long"]):
        said = [f"{number}. {'The garden has roses and bees. ' * 8}" for number in range(12)]
        demo.memory.add("\n\n".join(said) + " 🐝", key="long", namespace=("acme", "bob"))
    page.goto("/#/entry?key=long&namespace=acme&namespace=bob")
    page.get_by_text(re.compile(r"\d+ passages, each with a vector of its own")).click()
    passages = page.get_by_role("list", name="Passages").get_by_role("listitem")
    expect(passages.first).to_be_visible()
    assert passages.count() > 1
    assert "🐝" in passages.last.inner_text()
    look(page, "passages")


def test_the_list_is_moved_through_by_keyboard(page):
    page.goto("/")
    entries = page.get_by_role("list", name="Entries")
    expect(entries.get_by_role("listitem").first).to_be_visible()
    entries.focus()
    for _ in range(30):
        page.keyboard.press("ArrowDown")
        page.wait_for_timeout(20)
    expect(page.locator(".row:focus")).to_have_count(1)
    assert int(page.locator(".row:focus").get_attribute("data-at")) >= 20


def test_a_person_sees_why_entries_are_recalled_and_why_not(page):
    page.goto("/#/recall")
    page.get_by_label("Question").fill("Where does Alice live?")
    page.get_by_role("button", name="Recall", exact=True).click()
    hits = page.get_by_role("region", name="Hits", exact=True)
    expect(hits.get_by_text("Alice lives in Porto now.")).to_be_visible()
    assert hits.get_by_role("img", name=re.compile("meaning")).count() == 5
    hits.get_by_text("Tiers and parts").first.click()
    expect(hits.get_by_role("img", name=re.compile(r"Tier \d+: .* candidates")).first).to_be_visible()
    page.get_by_label("Key of an entry").fill("health")
    page.get_by_role("button", name="Explain").click()
    why = page.get_by_role("region", name="Why not")
    expect(why.get_by_text("there is no entry with key 'health'")).to_be_visible()
    why.get_by_label("Namespace that holds it").select_option("acme / bob")
    page.get_by_role("button", name="Explain").click()
    expect(why.get_by_text(re.compile("rank [2-9]"))).to_be_visible()  # among all, not within its own namespace
    expect(why.get_by_role("img", name=re.compile(r"Tier \d+: .* candidates")).first).to_be_visible()
    look(page, "recall")
    page.get_by_label("Compare two settings").check()
    expect(page.get_by_role("region", name="Hits with other settings")).to_be_visible()
    look(page, "compare")


def test_the_parts_that_a_person_reads_add_up_to_the_score(page):
    page.goto("/#/recall?q=Which%20exam%20is%20it%20on%202%20July%3F")
    hits = page.get_by_role("region", name="Hits", exact=True)
    bars = hits.get_by_role("img", name=re.compile("meaning"))
    expect(bars.first).to_be_visible()
    told = [bar.get_attribute("aria-label") for bar in bars.all()]
    numbers = hits.get_by_text(re.compile(r"^-?\d+\.\d+$")).all_inner_texts()
    scores = [float(text) for text in numbers if text]  # folded tables hold more, which nobody sees
    assert len(told) == len(scores) == 5
    assert any("who said it -" in parts for parts in told)
    for parts, score in zip(told, scores, strict=True):
        assert sum(float(part.rsplit(" ", 1)[1]) for part in parts.split(", ")) == pytest.approx(score, abs=0.004)


def test_keys_and_sessions_are_told_apart_by_their_namespaces(page, demo):
    for scope, text in (((), "The rent is 900."), (("acme", "bob"), "The rent is 700.")):
        if not demo.memory.get_many(["rent"], namespace=scope):
            demo.memory.add(text, key="rent", session="flat", speaker="bob", namespace=scope)
    page.goto("/#/entry?key=rent&namespace=acme&namespace=bob")
    page.get_by_role("link", name="Why (not) recalled?").click()
    page.get_by_label("Question").fill("How much is the rent?")
    page.get_by_role("button", name="Recall", exact=True).click()
    hits = page.get_by_role("region", name="Hits", exact=True)
    expect(hits.get_by_text("The rent is 900.")).to_be_visible()
    expect(hits.get_by_text("The rent is 700.")).to_be_visible()
    why = page.get_by_role("region", name="Why not")
    expect(why.get_by_text(re.compile("Returned, rank [12]"))).to_be_visible()
    page.get_by_role("group", name="Settings", exact=True).get_by_label("Namespace").select_option("acme / bob")
    page.get_by_role("button", name="Recall", exact=True).click()
    expect(hits.get_by_text("The rent is 700.")).to_be_visible()
    expect(hits.locator("li.hit:not(.gone)").get_by_text("The rent is 900.")).to_have_count(0)
    why.get_by_label("Namespace that holds it").select_option("(root)")
    page.get_by_role("button", name="Explain").click()
    expect(why.get_by_text(re.compile("Not returned: filter"))).to_be_visible()
    look(page, "namespaces")
    page.goto("/#/entry?key=rent&namespace=acme&namespace=bob")
    page.get_by_role("link", name="Its session").click()
    turns = page.get_by_role("region", name="Turns")
    expect(turns.get_by_text("The rent is 700.")).to_be_visible()
    expect(turns.get_by_text("The rent is 900.")).to_have_count(0)


def test_hits_appear_and_leave_along_time(page):
    page.goto("/#/recall?q=Where%20does%20Alice%20live%3F")
    hits = page.get_by_role("region", name="Hits", exact=True)
    expect(hits.get_by_text("Alice lives in Porto now.")).to_be_visible()
    page.get_by_label("As of").fill("0")
    expect(
        hits.get_by_text("Alice lives in Porto now.").locator("xpath=ancestor-or-self::li[contains(@class,'gone')]")
    ).to_be_visible()
    page.get_by_role("button", name="Scan through time").click()
    expect(page.get_by_role("img", name=re.compile("12 moments"))).to_be_visible(timeout=30_000)
    look(page, "through-time")


def test_a_question_is_compared_with_the_turns_of_a_session(page):
    page.goto("/#/session")
    expect(page.get_by_role("region", name="Turns").get_by_role("listitem").first).to_be_visible()
    page.get_by_label("Question").fill("Where are they going to live?")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("img", name=re.compile("evolved from"))).to_be_visible()
    look(page, "session")


def test_an_operator_predicts_a_reindex_checks_and_backs_up(page):
    page.goto("/#/operations")
    expect(page.get_by_role("region", name="Health").get_by_text("entries", exact=True)).to_be_visible()
    page.get_by_label("Tiers").fill("128, 768")
    page.get_by_role("button", name="Predict").click()
    expect(page.get_by_text("recall@10 then")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="Check", exact=True).click()
    expect(page.get_by_text(re.compile("no damage"))).to_be_visible(timeout=30_000)
    look(page, "operations")
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download a backup").click()
    assert Path(saved.value.path()).read_bytes()[:15] == b"SQLite format 3"


def test_an_operator_reindexes_rolls_back_and_maintains(page):
    page.goto("/#/operations")
    generations = page.get_by_role("region", name="Re-index").get_by_role("table", name="Generations")
    expect(generations).to_be_visible()
    page.get_by_label("Tiers").fill("128, 768")
    page.get_by_role("button", name="Re-index…").click()
    page.get_by_role("dialog").get_by_role("button", name="Re-index").click()
    expect(page.get_by_text(re.compile(r"Generation \d+ is live"))).to_be_visible(timeout=60_000)
    expect(generations.get_by_role("row", name=re.compile("live.*128 → 768"))).to_be_visible()
    page.get_by_role("button", name="Roll back…").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(generations.get_by_role("row", name=re.compile("former.*128 → 768")).first).to_be_visible(timeout=60_000)
    expect(page.get_by_role("table", name="Jobs").get_by_text("rollback").first).to_be_visible()
    page.get_by_role("button", name="What is needed?").click()
    expect(page.get_by_text("Nothing to do.").or_(page.get_by_role("table", name="Maintenance"))).to_be_visible()
    audit = page.get_by_role("table", name="Audit log")
    expect(audit.get_by_role("cell", name="reindex", exact=True).first).to_be_visible()
    expect(audit.get_by_role("cell", name="rollback", exact=True).first).to_be_visible()
    look(page, "generations")


def test_a_person_adds_edits_and_forgets_with_a_preview_and_a_receipt(page):
    page.goto("/")
    page.get_by_role("button", name="Add", exact=True).click()
    page.get_by_role("dialog").get_by_label("Text").fill("The code is 1234.")
    page.get_by_role("button", name="Remember").click()
    page.get_by_role("link", name=re.compile("The code is 1234")).click()
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("dialog").get_by_label("Text").fill("The code is 5678.")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("2 versions")).to_be_visible()
    page.get_by_role("button", name="Forget…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("1 entry: 2 rows with all versions")).to_be_visible()
    expect(dialog.get_by_text("The code is 1234. (former)")).to_be_visible()
    page.get_by_role("button", name="Forget it").click()
    expect(dialog.get_by_text(re.compile("1 entry is gone"))).to_be_visible()
    expect(dialog.get_by_text(re.compile("2 rows, .* deleted"))).to_be_visible()
    expect(dialog.get_by_text("no row, vector or word of them is in the database")).to_be_visible()
    expect(dialog.get_by_text("Still pending")).to_have_count(0)
    look(page, "receipt")
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("heading", name="Browse")).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("The code is"))).to_have_count(0)


def test_the_description_of_the_routes_is_readable(page):
    page.goto("/docs")
    expect(page.get_by_text("/v1/search")).to_be_visible()
    page.get_by_text("/v1/search").click()
    look(page, "docs")


def test_a_key_is_asked_for_and_kept_in_memory_only(browser, tmp_path):
    with serve_in_process(lambda: Memory(tmp_path / "store"), Settings()) as served:
        served.memory.add("Ours.", namespace=("acme",))
        served.memory.add("Theirs.", namespace=("other",))
        key = served.key("acme", role="reader")
        page = browser.new_context(base_url=served.url).new_page()
        page.goto("/")
        dialog = page.get_by_role("dialog", name="This server needs a key")
        dialog.get_by_label("Key").fill("am_000000000000_" + "x" * 43)
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog.get_by_text(re.compile("does not work"))).to_be_visible()
        dialog.get_by_label("Key").fill(key)
        dialog.get_by_role("button", name="Use key").click()
        expect(page.get_by_role("link", name=re.compile("Ours"))).to_be_visible()
        expect(page.get_by_role("link", name=re.compile("Theirs"))).to_have_count(0)
        expect(page.get_by_role("button", name="Add", exact=True)).to_have_count(0)
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        page.goto("/#/operations")
        expect(page.get_by_text(re.compile("concern the whole store"))).to_be_visible()
        page.context.close()


def test_an_operator_makes_and_revokes_keys(browser, tmp_path):
    with serve_in_process(lambda: Memory(tmp_path / "store"), Settings()) as served:
        page = browser.new_context(base_url=served.url).new_page()
        page.goto("/#/operations")

        def make(name: str, role: str) -> str:
            page.get_by_role("button", name="Make a key…").click()
            dialog = page.get_by_role("dialog", name="Make a key")
            dialog.get_by_label("What is it for?").fill(name)
            dialog.get_by_label("Role").select_option(role)
            dialog.get_by_role("button", name="Make key").click()
            shown = page.get_by_role("dialog", name="The new key")
            text = shown.get_by_text(re.compile("^am_")).inner_text()
            shown.get_by_role("button").first.click()
            return text

        admin = make("operator", "admin")
        asked = page.get_by_role("dialog", name="This server needs a key")
        asked.get_by_label("Key").fill(admin)
        asked.get_by_role("button", name="Use key").click()
        expect(page.get_by_role("table", name="Keys").get_by_text("operator")).to_be_visible()
        reader = make("dashboard", "reader")
        headers = {"authorization": f"Bearer {reader}"}
        assert served.client.get("/v1/stats", headers=headers).status_code == 200
        page.get_by_role("button", name="Revoke dashboard").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        expect(page.get_by_role("row", name=re.compile("dashboard.*revoked"))).to_be_visible()
        assert served.client.get("/v1/stats", headers=headers).status_code == 401
        page.context.close()
