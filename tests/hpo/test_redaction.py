"""Passwords and keys, by the kinds of places where they stand: none is shown, all else stays."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from hpo.commands.common import say
from hpo.errors import StorageError
from hpo.records import Access
from hpo.redaction import HIDDEN, redact, redact_argument, redact_arguments, redact_value
from hpo.storage.backends import open_storage
from hpo.storage.urls import parse_url, show_url
from hpo.worker.log import PlainFormatter
from tests.support.studies import ROOT, wait_until

SECRET = "pl4nted-S3cret"

PLACES = [
    "postgresql://hpo:{}@host:5432/hpo",
    "postgresql+psycopg://hpo:a@{}@host/hpo",
    "cannot open 'postgresql://hpo:{}@host/hpo': refused",
    "mysql://:{}@host",
    "https://{}@github.com/me/mine.git",
    "https://oauth2:{}@gitlab.com/me/mine.git",
    "postgresql://hpo@host/hpo?password={}&sslmode=require",
    "postgresql://hpo@host/hpo?sslmode=require&sslpassword={}",
    "host=node7 password={} dbname=hpo",
    "host=node7 password = '{} and more' dbname=hpo",
    "PGPASSWORD={} hpo status",
    "export WANDB_API_KEY={}",
    "AWS_SECRET_ACCESS_KEY={}",
    "--set objective.params.api_key={}",
    'objective.params.apiKey = "{}"',
    "db_password: {}",
    "{{'password': '{}'}}",
    '{{"token": "{}", "n": 1}}',
    "MP_API_KEY={}; python train.py",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_secret_is_hidden_where_secrets_stand(place):
    shown = redact(place.format(SECRET))
    assert SECRET not in shown
    assert HIDDEN in shown
    assert redact(shown) == shown, "what is hidden once stays as it is"


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////home/a:b@c/hpo.db",
        "password authentication failed for user hpo",
        "n_tokens=512 token_length=7 tokenizer=bert max_tokens=3",
        "compass=3 bypass=yes passfile=/home/me/.pgpass keyboard=us key=3",
        "https://docs.python.org:443/3/x.html?y=1",
        "trial 3: finished, score 0.5 in 1.0 s",
        "postgresql://hpo@host/hpo?sslmode=verify-ca&sslrootcert=/d/root.crt",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text
    assert redact_arguments(text.split()) == text.split()


def test_values_of_the_environment_are_hidden_wherever_they_stand(monkeypatch):
    secret = "m/y k@y!"
    monkeypatch.setenv("SERVICE_API_KEY", secret)
    monkeypatch.setenv("HPO_STORAGE", "postgresql://hpo:un@mbiguous@host/hpo")
    monkeypatch.setenv("SSH_KEY_TOKEN", "/home/me/token")
    monkeypatch.setenv("SHORT_PASSWORD", "hpo")
    for text in (secret, urllib.parse.quote(secret, safe=""), "un@mbiguous"):
        assert redact(f"KeyError: ({text}), twice: {text}") == "KeyError: (***), twice: ***"
    assert redact("hpo reads /home/me/token") == "hpo reads /home/me/token"


def test_arguments_are_hidden_by_the_option_before_them():
    given = ["run", "--password", "a b", "--set", "x.secret=c d", "postgresql://u:e f'g@h/d"]
    assert redact_arguments(given) == [
        *("run", "--password", HIDDEN),
        *("--set", f"x.secret={HIDDEN}", f"postgresql://u:{HIDDEN}@h/d"),
    ]


def test_values_are_hidden_by_their_names_at_any_depth():
    value = {"params": [{"apiKey": SECRET, "depth": 3, "pad_token": 0, "text": f"token={SECRET}"}]}
    shown = redact_value(value)
    assert shown == {"params": [{"apiKey": "***", "depth": 3, "pad_token": 0, "text": "token=***"}]}
    assert json.loads(redact(json.dumps({"password": 'a"b', "n": [1, 2]}))) == {
        "password": HIDDEN,
        "n": [1, 2],
    }


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_no_password_of_a_url_is_shown_whatever_it_is_made_of(password):
    url = sa.URL.create("postgresql", "someone", f"<{password}>", "host", 5432, "base")
    for text in (show_url(url), redact_argument(f"postgresql://someone:<{password}>@host/base")):
        assert f"<{password}" not in text
        assert urllib.parse.quote(f"<{password}>", safe="") not in text
        assert text.startswith("postgresql://someone:***@host")
    url = url.set(password=None, query={"password": f"<{password}>", "sslmode": "require"})
    assert urllib.parse.quote_plus(f"<{password}>") not in show_url(url)
    assert "sslmode=require" in show_url(url)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://u:{SECRET}@{SECRET}@host/db",
        f"postgresql://u:a/{SECRET}@{SECRET}@host/db",
        f"postgresql://u:a?{SECRET}@{SECRET}@host/db",
        f"postgresql://{SECRET}:{SECRET}@host:port/db",
    ],
)
def test_a_url_whose_password_has_no_clear_end_is_refused_without_showing_it(url):
    for call in (parse_url, lambda url: open_storage(url, Access.READ)):
        with pytest.raises(StorageError) as caught:
            call(url)
        assert f"{SECRET}@" not in str(caught.value).replace("***@", "")
        assert "%40" in str(caught.value) or "not a database URL" in str(caught.value)


def test_messages_and_logs_pass_through_it(capsys):
    say(f"error: postgresql://hpo:{SECRET}@host/db: down")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "password=%s", (SECRET,), None)
    assert SECRET not in capsys.readouterr().err + PlainFormatter("%(message)s").format(record)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux alone shows it")
def test_other_users_do_not_see_the_password_on_a_command_line(tmp_path):
    code = "import time, hpo.cli as cli; cli.run = lambda *_: time.sleep(60); cli.main()"
    url = f"postgresql://hpo:{SECRET}@127.0.0.1:1/hpo"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "status", "x", "--storage", url],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
    )
    try:
        shown = Path(f"/proc/{process.pid}/cmdline")
        wait_until(lambda: b"postgresql://hpo:***@127.0.0.1:1/hpo" in shown.read_bytes())
        assert SECRET.encode() not in shown.read_bytes()
        assert shown.read_bytes().split(b"\0")[3:6] == [b"status", b"x", b"--storage"]
    finally:
        process.kill()
        process.wait()
