"""Credential files are recognised by their usual names and by their content; source code is not mistaken for one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tapir_ray.cluster.jobs.credential_files import may_hold_key
from tests.runs import ROOT

USUAL = """
.env .env.production prod.env .envrc .git-credentials .gitcookies .npmrc .pypirc .yarnrc.yml pip.conf auth.toml
auth.json .netrc _netrc .pgpass .my.cnf .boto .s3cfg .htpasswd .vault-token .terraformrc credentials.tfrc.json
terraform.tfstate terraform.tfstate.backup prod.tfvars prod.auto.tfvars.json server.pem server.KEY client.p12
client.pfx app.keystore app.jks vault.kdbx office.ovpn putty.ppk id_rsa id_rsa.pub id_dsa id_ecdsa id_ecdsa_sk
id_ed25519 id_ed25519_sk github_rsa deploy_ed25519 .ssh/config .ssh/known_hosts .ssh/work .docker/config.json
.dockercfg .dockerconfigjson kubeconfig kubeconfig.yaml prod.kubeconfig prod-kubeconfig.yaml token token.json
token.txt .token hf_token hf_token.txt .huggingface/token .cache/huggingface/token .cache/huggingface/stored_tokens
wandb/settings .config/gcloud/access.db .config/gh/hosts.yml .aws/config .azure/azureProfile.json .kube/config
.gnupg/trustdb.gpg application_default_credentials.json credentials credentials.json credentials.db credentials.toml
.cargo/credentials .cargo/credentials.toml .gem/credentials my-credentials.yaml aws_credentials.csv
rootkey-credentials.csv secrets.json secrets.yaml secrets.yml secrets.toml secrets.txt secrets.env secrets.ini
secrets.py secrets.prod.yaml SECRETS.YAML db-secrets.yaml dbSecrets.json client_secret_123.apps.json k8s-secret.yaml
.secrets secrets.enc.yaml values.sops.yaml service-account.json my-service-account-prod.json service_account.json
serviceAccount.json serviceAccountKey.json gcp-key.json gcp-key-prod.json gcp_key.json firebase-adminsdk-x1.json
myapp-firebase-adminsdk-a.json api_key.txt apikey.txt API_KEYS.json openai_key.txt .openai_api_key
anthropic-api-key.txt private_key.txt privateKey.json passwords.txt .passwd kaggle.json .databrickscfg .modal.toml
.authinfo .authinfo.gpg .msmtprc .curlrc .hgrc cookies.txt prometheus.htpasswd django.secret ssh_host_rsa_key
rootkey.csv user_accessKeys.csv .stripe/config.toml .mc/config.json .fly/config.yml .sky/ssh/sky-key .claude.json
.config/glab-cli/config.yml .config/github-copilot/hosts.json .config/op/config .cf/config.json .bundle/config
.subversion/auth/svn.simple/a1 .ipython/profile_default/history.sqlite kube.config
rclone.conf age/keys.txt .bash_history .python_history .streamlit/secrets.toml
"""
ORDINARY = """
secrets_test.py test_secrets.py credentials.py credential_files.py secret_santa.py token.py tokens.py tokenizer.json
tokenizer_config.json special_tokens_map.json token_counts.json keys.py keys.json keyboard.txt monkey.json
environment.py env/a.py passwords.py api_key.py apikeys.md service_account.py service-account.md kubeconfig_test.go
secretary.json auth.py config.json docker/config.json settings.json wandb/run.json profiles.yml my_id_rsa.py README.md
known.txt hosts.yml seed.jsonl ssh/config environment.yml requirements.txt package.json netrc.py configs/demo.yaml
jobs/distill.py keystore.py pem.txt credentials_test.py access_keys.ts
"""


def lay(folder: Path, name: str, text: str = "x") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def found(folder: Path, name: str) -> bool:
    """Returns whether the file, or a folder above it, is left out."""
    path = lay(folder, name)
    inside = [path, *(parent for parent in path.parents if parent.is_relative_to(folder) and parent != folder)]
    return any(may_hold_key(place) for place in inside)


@pytest.mark.parametrize("name", USUAL.split())
def test_a_usual_name_of_a_credential_file_is_recognised(tmp_path: Path, name: str) -> None:
    assert found(tmp_path, name)
    assert found(tmp_path, f"deep/down/{name}")


@pytest.mark.parametrize("name", ORDINARY.split())
def test_an_ordinary_name_is_not_recognised(tmp_path: Path, name: str) -> None:
    assert not found(tmp_path, name)


def test_no_file_of_this_repository_is_mistaken_for_one() -> None:
    for folder in ("tapir_ray", "jobs", "configs", "cluster", "tests", "benchmarks", "docs"):
        for path in (ROOT / folder).rglob("*"):
            assert not may_hold_key(path), path


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"type": "service_account", "project_id": "p"}),
        json.dumps({"project": "p", "private_key": "-----BEGIN PRIVATE KEY-----"}, indent=2),
        json.dumps({"installed": {"client_id": "i", "client_secret": "s"}}),
        json.dumps({"type": "authorized_user", "refresh_token": "1//x"}),
        json.dumps({"auths": {"ghcr.io": {"auth": "eA=="}}}),
        "\ufeff" + json.dumps({"SecretAccessKey": "x"}),
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaA\n",
        "\n-----BEGIN RSA PRIVATE KEY-----\n",
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        "PuTTY-User-Key-File-3: ssh-ed25519\n",
        "$ANSIBLE_VAULT;1.1;AES256\n",
    ],
)
def test_a_credential_under_another_name_is_recognised_by_its_content(tmp_path: Path, text: str) -> None:
    assert may_hold_key(lay(tmp_path, "prod-4f1c.json", text))
    assert may_hold_key(lay(tmp_path, "work", text))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([{"private_key": "what is it?"}]),
        json.dumps({"instruction": "What is a private_key?", "type": "question"}),
        json.dumps({"api_key": None, "password": ""}),
        "import x\nPEM = '''-----BEGIN PRIVATE KEY-----'''\n",
        "{not json, private_key",
        "-----BEGIN CERTIFICATE-----\n",
        "",
    ],
)
def test_other_content_is_sent(tmp_path: Path, text: str) -> None:
    assert not may_hold_key(lay(tmp_path, "data.json", text))


def test_secrets_are_recognised_in_data_and_not_in_code(tmp_path: Path) -> None:
    for number, text in enumerate(
        ("apiVersion: v1\nkind: Secret\ndata: {}\n", "[x]\naws_secret_access_key = k\n", "//r/:_authToken=k\n")
    ):
        assert may_hold_key(lay(tmp_path, f"a{number}.yaml", text)) and may_hold_key(lay(tmp_path, f"a{number}", text))
        assert not may_hold_key(lay(tmp_path, f"a{number}.py", text))
    assert not may_hold_key(lay(tmp_path, "b.yaml", "kind: SecretStore\nenvFrom:\n  - secretRef: {name: tapir-keys}\n"))


KEY = "sk-proj-" + "a1B2c3D4" * 4


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("env.sh", f"export OPENAI_API_KEY={KEY}\n"),
        ("key.txt", KEY),
        ("keys.yaml", f"openai: {KEY}\n"),
        ("compose.override.yml", f"services:\n  a:\n    environment:\n      OPENAI_API_KEY: {KEY}\n"),
        ("tokens.json", json.dumps({"hf": "hf_" + "a1B2c3D4" * 4})),
        ("list.json", json.dumps([{"name": "x", "value": KEY}])),
        ("ca-and-key.crt", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n" + KEY),
        ("both.txt", "Bag attributes\n-----BEGIN PRIVATE KEY-----\nx\n"),
        ("hosts.yml", "github.com:\n    oauth_token: 0123456789abcdef0123\n"),
        ("cli.toml", "token_name = 'x'\napi-key = '0123456789abcdef0123'\n"),
        ("admin.conf", f"users:\n- user:\n    client-key-data: {'QUJD' * 8}==\n"),
        ("logins", "machine api.example.com login me password x\n"),
        ("jar.txt", "# Netscape HTTP Cookie File\n"),
        ("adc.json", json.dumps({"type": "external_account"})),
        ("alias.json", json.dumps({"aliases": {"s3": 1}, "s3": {"accessKey": "a", "secretKey": "b"}})),
    ],
)
def test_a_key_in_a_file_of_any_name_is_recognised(tmp_path: Path, name: str, text: str) -> None:
    assert may_hold_key(lay(tmp_path, name, text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "teacher:\n  api_key_env: OPENAI_API_KEY\n  max_tokens: 4096\n"),
        ("hydra.yaml", "api_key: ${oc.env:OPENAI_API_KEY_OF_THIS_PROJECT}\n"),
        ("run.sh", "export OPENAI_API_KEY=$1\nexport HF_HOME=/data\n"),
        ("rows.json", json.dumps([{"instruction": "Explain risk-2024-of-large-models, or sk-learn pipelines."}])),
        ("notes.txt", "Name your key sk-... in OPENAI_API_KEY; tokens begin with hf_\n"),
        ("long.csv", "id,text\n" + "1,words\n" * 20_000 + KEY),
    ],
)
def test_names_of_keys_without_values_are_sent(tmp_path: Path, name: str, text: str) -> None:
    assert not may_hold_key(lay(tmp_path, name, text))


def test_a_link_is_judged_by_its_target(tmp_path: Path) -> None:
    for number, name in enumerate((".ssh/config", ".aws/config", "home/.env", "secrets/db.yaml")):
        target = lay(tmp_path / "home of a user", name)
        (tmp_path / f"link{number}.txt").symlink_to(target)
        assert may_hold_key(tmp_path / f"link{number}.txt"), name
    (tmp_path / "data.txt").symlink_to(lay(tmp_path / "elsewhere", "rows.txt"))
    assert not may_hold_key(tmp_path / "data.txt")


def test_a_folder_named_secrets_is_left_out_and_a_package_of_that_name_is_sent(tmp_path: Path) -> None:
    lay(tmp_path, "secrets/db")
    lay(tmp_path, "app/secrets/__init__.py")
    assert may_hold_key(tmp_path / "secrets")
    assert not may_hold_key(tmp_path / "app" / "secrets")
