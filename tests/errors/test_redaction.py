"""Keys are starred wherever a library's error quotes them; text that only resembles a key stays readable."""

from __future__ import annotations

import pickle

import httpx
import openai
import pytest

from tapir_ray import errors
from tapir_ray.errors import InputError, StageError, last_line
from tapir_ray.errors.redaction import looks_like_a_key, names_a_key, redacted, secret_of
from tapir_ray.llm.client.failures import failed_reply
from tapir_ray.llm.client.target import Secret

KEY = "planted1A7c9e5f2d4b6a8"

TEXTS = [
    f"Incorrect API key provided: sk-{KEY}. You can find your API key at https://platform.openai.com/account/api-keys.",
    f"Incorrect API key provided: sk-pl***{KEY}",
    f"Invalid API key given: '{KEY}'",
    f"GET https://h.example/v1/chat?api_key={KEY}&api-version=2024-02-01 gave 401",
    f"https://bucket.s3.amazonaws.com/a?X-Amz-Credential={KEY}%2F2024&X-Amz-Expires=9&X-Amz-Signature={KEY}",
    f"https://acc.blob.core.windows.net/c/b?sv=2024&se=2025&sig={KEY}%3D",
    f"https://f.azurewebsites.net/api/chat?code={KEY}==",
    f"Client error '401' for url 'https://h/v1?subscription-key={KEY}'",
    f"cannot open s3://AKIA:{KEY}/x@bucket/runs/a",
    f"cannot open s3://bucket/a?access_key=A&secret_key={KEY}&region=eu",
    f"proxy http://user:{KEY}@proxy:3128 refused",
    f"s3://bucket/a?endpoint_override=http://user:{KEY}@minio:9000",
    f"redirected to https://h/cb#access_token={KEY}&state=1",
    f"headers: {{'Authorization': 'Bearer {KEY}', 'Accept': '*/*'}}",
    f'{{"api_key": "{KEY}", "model": "m"}}',
    f"tapir run c.yaml --set teacher.extra_body.api_key={KEY}",
    f"export OPENAI_API_KEY={KEY}",
    f"password={KEY}; client_secret: {KEY}",
    f"hf_{KEY} and ghp_{KEY} and AIza{KEY}",
    f"-----BEGIN PRIVATE KEY-----\n{KEY}\n-----END PRIVATE KEY-----",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_key_is_starred(text: str) -> None:
    assert KEY not in redacted(text) and "***" in redacted(text)
    assert redacted(redacted(text)) == redacted(text)


@pytest.mark.parametrize(
    "text",
    [
        "teacher.api_key_env: the environment variable OPENAI_API_KEY is not set; set it, or write null for no key",
        "https://h.example:8000/v1/models?api-version=2024-02-01&model=x answers HTTP 404",
        "s3://bucket/runs/a?region=eu-west-1&endpoint_override=http%3A//127.0.0.1:9000&scheme=http is a file",
        "budget.max_tokens: 100000 and stop_token_ids: [1, 2], prompt_cache_key: mine, eos_token: </s>",
        "hf-internal-testing/tiny-random-LlamaForCausalLM cannot be loaded on node-7",
        "the rows have no column messages; task-aware, risk-averse, disk-pressure-very-high",
        "abfss://container@account.dfs.core.windows.net/rows",
        "rows.jsonl:3: key: expected a text, unexpected token: something",
        "https://h:8000/@scope/package and mail me@example.com",
        "a file of 12345678 rows; keys: abcdefgh",
    ],
)
def test_an_ordinary_text_is_unchanged(text: str) -> None:
    assert redacted(text) == text


def test_a_key_of_the_environment_is_starred_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_PROVIDER_TOKEN", "correct horse battery")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    monkeypatch.setenv("SOME_SETTING", "ordinary words")
    text = "refused (correct horse battery), wJalrXUtnFEMI/K7MDENG, ordinary words"
    assert redacted(text) == "refused (***), ***, ordinary words"


def test_a_key_in_use_is_starred_in_every_error_of_its_process() -> None:
    """Its form and the name of its variable do not matter, and it is starred in another process too."""
    secret = pickle.loads(pickle.dumps(Secret("plainwordsofakey")))
    assert secret.reveal() == "plainwordsofakey" and "plain" not in repr(secret)
    for error in (InputError("plainwordsofakey is refused"), StageError("x\nplainwordsofakey")):
        assert "plainwords" not in str(error) and "plainwords" not in str(pickle.loads(pickle.dumps(error)))
        assert "plainwords" not in errors.sentence(error)
    assert last_line(RuntimeError("Traceback\nopenai.AuthenticationError: plainwordsofakey")) == (
        "openai.AuthenticationError: ***"
    )


def test_the_reason_of_a_failed_row_holds_no_key() -> None:
    request = httpx.Request("POST", "https://h/v1/chat/completions")
    for quoted in (f"Incorrect API key provided: sk-{KEY}.", f"Incorrect API key provided: {KEY[:6]}****{KEY[-4:]}."):
        error = openai.AuthenticationError(quoted, response=httpx.Response(401, request=request), body=None)
        reason = failed_reply(error, timeout_s=9.0).reason
        assert reason is not None and reason.startswith("AuthenticationError: Incorrect API key provided: ***")
        assert KEY[:6] not in reason and KEY[-4:] not in reason


@pytest.mark.parametrize(
    "uri",
    [
        "https://user@h/v1", "https://user:pw@h/v1", "https://h/v1?key=x", "https://h/v1?Api-Key=x", "https://h?token=x",
        "https://h/v1?api%5Fkey=x", "https://h/v1?a=b;api_key=x", "https://h/v1?access_token=x", "https://h/v1?sig=x",
        "https://h/v1?signature=x", "https://h/v1?subscription-key=x", "https://h/v1?X-Amz-Signature=x",
        "https://h/v1?code=x", "https://h/v1?password=x", "https://h/v1?secret=x", "https://h/v1?apikey=x",
        "https://h/v1?client_secret=x", "https://h/v1?X-Goog-Credential=x", "https://h/v1#access_token=x",
        "s3://id:key@b/r", "s3://id:ke/y@b/r", "s3://id:ke?y@b/r", "gs://b/r?secret_key=x", "s3://b?session_token=x",
        "s3://b/r?endpoint_override=http://u:p@h", "s3://b/r?endpoint_override=u:p@h:9000", "hf://u:p@datasets/a/b",
        "file://u:p@h/a", "postgresql://u:p@h/db", "abfss://c:key@account.dfs.core.windows.net/x", "HTTPS://U:P@H",
    ],
)  # fmt: skip
def test_a_uri_with_a_secret_is_recognised(uri: str) -> None:
    assert secret_of(uri) is not None
    assert redacted(uri) != uri


@pytest.mark.parametrize(
    "uri",
    [
        "https://h/v1", "http://127.0.0.1:8000/v1", "https://h/v1?api-version=2024", "https://h/v1?key=", "runs/a@b",
        "s3://b/r?region=eu&scheme=http&endpoint_override=127.0.0.1:9000", "s3://b/mail@example.com.jsonl",
        "hf://datasets/owner/name@main/rows.parquet", "abfss://container@account.dfs.core.windows.net/x",
        "http://h:8000/@scope/x", "https://h/v1?max_tokens=5&tokenizer=x&author=y&encode=z",
    ],
)  # fmt: skip
def test_a_uri_without_a_secret_is_unchanged(uri: str) -> None:
    assert secret_of(uri) is None
    assert redacted(uri) == uri


def test_names_of_keys_are_recognised() -> None:
    keys = "api_key apiKey x-api-key Authorization hf_token auth-token aws_secret_access_key Ocp-Apim-Subscription-Key"
    others = "max_tokens stop_token_ids prompt_cache_key tokenizer api_key_env top_k monkey key_value eos_token keyword"
    assert [name for name in keys.split() if not names_a_key(name)] == []
    assert [name for name in others.split() if names_a_key(name)] == []


def test_a_key_in_place_of_a_variable_name_is_recognised() -> None:
    for key in (f"hf_{KEY}aaaaaaaaaa", f"sk-proj-{KEY}", "0f2a9c4be18d4d6fa1b23c4d5e6f7a8b", "AKIAIOSFODNN7EXAMPLE"):
        assert looks_like_a_key(key), key
    for name in ("OPENAI_API_KEY", "my_provider_key_2", "MYVERYLONGVARIABLENAME2", "TOKEN"):
        assert not looks_like_a_key(name), name


@pytest.mark.timeout(60)
@pytest.mark.parametrize("word", ["x", "x-", "x.", "a=", "://", "sk-", "bearer ", "eyJ"])
def test_a_long_text_without_spaces_takes_no_quadratic_time(word: str) -> None:
    """The end of a log file is redacted: base64 in it is one long word, which took minutes."""
    text = word * (2**16 // len(word))
    assert len(redacted(f"{text} https://user:password@host/{text} api_key=abcdefgh")) <= 2 * len(text) + 100
    assert redacted(f"{text} api_key=abcdefgh").endswith("***")
