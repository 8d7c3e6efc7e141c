"""What `deploy/` says is accepted by those it is said to, and size classes arrive at pods and queues."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._config import process_config, resolve_to_config_type
from dagster_k8s import K8sRunLauncher
from dagster_k8s.container_context import K8sContainerContext
from dagster_k8s.job import (
    DagsterK8sJobConfig,
    UserDefinedDagsterK8sConfig,
    construct_dagster_k8s_job,
    get_user_defined_k8s_config,
)
from dagster_k8s.models import k8s_snake_case_dict
from kubernetes.client import V1Job

from elt_dagster.control.yaml_file import load_project
from elt_dagster.errors import ConfigError
from elt_dagster.model import SyncSpec
from elt_dagster.orchestration import sizes
from elt_dagster.orchestration.executors import build_executor
from tests.dagster_connectors.scripted import STREAMS
from tests.integration.dagster_project import REPOSITORY, ShopProject, shop

DEPLOY = REPOSITORY / "deploy"
COMPOSE, HELM = DEPLOY / "docker-compose", DEPLOY / "helm"
SLUGS = ("a", "billing", "m-1", "mz", "n", "shop", "zendesk", "0-day", "99", "crm_eu")


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())


def spec(executor: str, **changes: Any) -> SyncSpec:
    execution = {"executor": executor, "max_concurrent": 8}
    return SyncSpec.model_validate(shop(execution_mode="fan_out_entity", execution=execution, **changes))


def step_pod(tags: Mapping[str, Any], run: Mapping[str, Any] | None = None) -> Any:
    """The template of the pod that dagster-k8s makes for a step with these tags, where runs are configured by ``run``."""
    texts = {name: json.dumps(value) for name, value in tags.items()}
    launcher = K8sContainerContext(run_k8s_config=UserDefinedDagsterK8sConfig(**(run or {})))
    merged = launcher.merge(K8sContainerContext(run_k8s_config=get_user_defined_k8s_config(texts)))
    job_config = DagsterK8sJobConfig(job_image="image", dagster_home="/home")
    job: Any = construct_dagster_k8s_job(job_config, ["dagster"], "step", merged.run_k8s_config)
    return job.spec.template


@pytest.mark.parametrize("size", sizes.SIZE_CLASSES)
def test_a_size_class_becomes_the_resources_of_the_pod(size: str) -> None:
    (container,) = step_pod(sizes.step_tags(spec("k8s"), size)).spec.containers
    resources = container.resources
    assert resources.requests["memory"] == resources.limits["memory"]
    assert "cpu" in resources.requests
    assert "cpu" not in resources.limits


def test_the_page_on_deploying_shows_the_table_of_sizes() -> None:
    page = (REPOSITORY / "docs" / "deploying.md").read_text()
    shown = dict(re.findall(r"^\| `(xs|s|m|l|xl)` \| (.*) \|$", page, re.MULTILINE))
    asked = {size: config["container_config"]["resources"]["requests"] for size, config in sizes.pod_sizes("").items()}
    assert shown == {size: f"{resources['cpu']} | {resources['memory']}" for size, resources in asked.items()}


def test_the_page_on_deploying_knows_every_variable() -> None:
    page = (REPOSITORY / "docs" / "deploying.md").read_text()
    code = "".join(file.read_text() for file in (REPOSITORY / "elt_dagster").rglob("*.py"))
    unknown = {
        name for name in re.findall(r"\bELT_DAGSTER_[A-Z0-9]+(?:_[A-Z0-9]+)*\b", code) if f"`{name}`" not in page
    }
    assert not unknown


def test_larger_classes_ask_for_more() -> None:
    def asked(size: str, what: str) -> float:
        text = sizes.pod_sizes("")[size]["container_config"]["resources"]["requests"][what]
        number, unit = re.fullmatch(r"(\d+)(\D*)", text).groups()  # type: ignore[union-attr]
        return float(number) * {"": 1, "m": 0.001, "Mi": 2**20, "Gi": 2**30}[unit]

    for what in ("cpu", "memory"):
        steps = [asked(size, what) for size in sizes.SIZE_CLASSES]
        assert steps == sorted(set(steps))


@pytest.mark.parametrize("executor", ["threads", "multiprocess", "celery"])
def test_what_runs_on_one_machine_or_in_celery_asks_for_no_pod(executor: str) -> None:
    assert sizes.step_tags(spec(executor), "xl") == {}


def test_a_sequential_sync_runs_in_the_pod_of_its_run() -> None:
    sequential = SyncSpec.model_validate(shop(execution={"executor": "k8s"}))
    assert sizes.step_tags(sequential, "xl") == {}


def test_a_class_that_a_connector_made_up_gets_what_the_executor_gives_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes.step_tags(spec("k8s"), "huge") == {}
    monkeypatch.setenv(sizes.CELERY_QUEUES, '{"xl": "big"}')
    assert sizes.step_tags(spec("celery"), "huge") == {}


def test_a_table_in_the_environment_replaces_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    pod = {
        "container_config": {"resources": {"requests": {"memory": "32Gi"}}},
        "pod_spec_config": {"node_selector": {"a": "b"}},
    }
    monkeypatch.setenv(sizes.K8S_SIZES, json.dumps({"xl": pod}))
    template = step_pod(sizes.step_tags(spec("k8s"), "xl")).spec
    assert template.containers[0].resources.requests == {"memory": "32Gi"}
    assert template.node_selector == {"a": "b"}
    assert sizes.step_tags(spec("k8s"), "s")[sizes.K8S_CONFIG_TAG] == sizes.pod_sizes("")["s"]


def test_classes_go_to_the_queues_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sizes.CELERY_QUEUES, '{"l": "large", "xl": "large"}')
    assert sizes.step_tags(spec("celery"), "xl") == {"dagster-celery/queue": "large"}
    assert sizes.step_tags(spec("celery"), "s") == {}
    assert sizes.step_tags(spec("k8s"), "xl").keys() == {"dagster-k8s/config"}


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"xxl": {}}', "no size class 'xxl'"),
        ('{"xl": 3}', "wrong for 'xl'"),
        ('{"xl": {"container": {}}}', "wrong for 'xl'"),
        ('{"xl": {"container_config": {"memory": "1Gi"}}}', "wrong for 'xl'"),
        ('{"xl": {"container_config": {"resources": {"limits": 3}}}}', "wrong for 'xl'"),
    ],
)
def test_a_table_of_pods_that_kubernetes_would_refuse_is_refused(table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        sizes.pod_sizes(table)
    assert sizes.K8S_SIZES in str(refused.value)
    assert refused.value.fix


@pytest.mark.parametrize("table", ['{"xl": 3}', '{"xl": " "}', '{"xl": ["a"]}', '{"large": "a"}'])
def test_a_table_of_queues_that_names_none_is_refused(table: str) -> None:
    with pytest.raises(ConfigError, match=sizes.CELERY_QUEUES):
        sizes.celery_queues(table)


def test_a_wrong_table_breaks_the_syncs_that_use_it_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = ShopProject.make(tmp_path)
    project.put(shop())
    project.put(shop(slug="pods", schema="pods", execution_mode="fan_out_entity", execution={"executor": "k8s"}))
    monkeypatch.setenv(sizes.K8S_SIZES, "{")
    keys = {spec.key.to_user_string() for spec in project.defs().resolve_all_asset_specs()}
    assert keys == {"raw_shop/orders", "raw_shop/customers", "raw_shop/items", "broken/pods"}


def test_the_steps_of_a_sync_carry_the_size_of_their_stream(tmp_path: Path) -> None:
    project = ShopProject.make(tmp_path)
    sync = shop(execution_mode="fan_out_entity", execution={"executor": "k8s"})
    with project.store.transaction() as tx:
        streams = {s.name: replace(s, size_class="xl" if s.name == "public.orders" else "xs") for s in STREAMS}
        tx.put_sync(SyncSpec.model_validate(sync), streams)
    job = project.defs().resolve_job_def("sync_shop")
    memory = {
        node.name: get_user_defined_k8s_config(node.definition.tags).container_config["resources"]["limits"]["memory"]
        for node in job.graph.nodes
    }
    assert memory == {"raw_shop__orders": "8Gi", "raw_shop__customers": "768Mi", "raw_shop__items": "768Mi"}


def test_the_kubernetes_executor_takes_its_configuration() -> None:
    executor = build_executor(spec("k8s"))
    assert executor.name == "k8s"
    assert executor_config(executor)["max_concurrent"] == 8


def test_the_celery_executor_looks_the_broker_up_when_a_run_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ELT_DAGSTER_CELERY_BROKER", "redis://:canary@old/0")
    executor = build_executor(spec("celery"))
    monkeypatch.setenv("ELT_DAGSTER_CELERY_BROKER", "redis://:canary@new/0")
    assert executor_config(executor)["broker"] == "redis://:canary@new/0"


def executor_config(executor: dg.ExecutorDefinition) -> dict[str, Any]:
    """What the executor is made with when nobody configures it at launch."""
    taken = executor.apply_config_mapping({"config": {}})
    assert taken.success, taken.errors
    value: Any = taken.value
    config: dict[str, Any] = value["config"]
    return config


def launcher_config(values: Any) -> dict[str, Any]:
    """What the chart writes into dagster.yaml for its K8sRunLauncher."""
    given = values["runLauncher"]["config"]["k8sRunLauncher"]
    run = {_snake(key): value for key, value in given["runK8sConfig"].items()}
    plain = {_snake(key): value for key, value in given.items() if key != "runK8sConfig"}
    chart = {"service_account_name": "dagster", "dagster_home": "/opt/dagster/dagster_home", "instance_config_map": "dagster-instance",
             "postgres_password_secret": values["global"]["postgresqlSecretName"], "job_namespace": "default"}  # fmt: skip
    return {**chart, **plain, "run_k8s_config": run}


def _snake(name: str) -> str:
    return re.sub(r"(?=[A-Z])", "_", name).lower()


def test_the_run_launcher_of_the_helm_values_is_accepted_by_dagster_k8s() -> None:
    config = launcher_config(read(HELM / "values.yaml"))
    schema = resolve_to_config_type(K8sRunLauncher.config_type())  # type: ignore[no-untyped-call]
    taken = process_config(schema, config)
    assert taken.success, taken.errors
    wrong = process_config(schema, {**config, "run_k8s_configuration": {}})
    assert not wrong.success


def test_a_step_asks_for_its_own_size_in_the_pods_of_the_helm_values() -> None:
    values = read(HELM / "values.yaml")
    (sizes_variable,) = [e["value"] for e in deployment(values)["env"] if e["name"] == sizes.K8S_SIZES]
    pods = sizes.pod_sizes(sizes_variable)
    run = launcher_config(values)["run_k8s_config"]
    template = step_pod({sizes.K8S_CONFIG_TAG: pods["xl"]}, run)
    assert template.spec.containers[0].resources.limits == {"memory": "16Gi"}
    assert template.spec.node_selector == {"pool": "large"}
    assert template.spec.termination_grace_period_seconds == 120
    assert template.metadata.annotations == {"cluster-autoscaler.kubernetes.io/safe-to-evict": "false"}


def deployment(values: Any) -> dict[str, Any]:
    found: dict[str, Any] = values["dagster-user-deployments"]["deployments"][0]
    return found


def test_the_example_sync_for_kubernetes_is_one_that_apply_takes() -> None:
    (sync,) = load_project(HELM / "example.yaml").syncs
    assert build_executor(sync).name == "k8s"


def test_the_job_that_makes_the_store_is_one_that_kubernetes_knows() -> None:
    job = read(HELM / "init-job.yaml")
    body = {key: value for key, value in job.items() if key not in ("apiVersion", "kind")}
    assert k8s_snake_case_dict(V1Job, body)["spec"]["template"]["spec"]["containers"][0]["args"] == [
        "elt-dagster",
        "init",
    ]


def selections() -> dict[str, list[str]]:
    deployments = read(HELM / "values.yaml")["dagster-user-deployments"]["deployments"]
    helm = [e["value"] for d in deployments for e in d["env"] if e["name"] == "ELT_DAGSTER_SELECT"]
    whole, split = read(COMPOSE / "compose.yaml")["services"], read(COMPOSE / "compose.split.yaml")["services"]
    compose = [s["environment"]["ELT_DAGSTER_SELECT"] for s in (split["code"], whole["code-rest"])]
    return {"helm": helm, "compose": compose}


@pytest.mark.parametrize("where", ["helm", "compose"])
def test_two_code_locations_have_every_sync_once(where: str) -> None:
    patterns = selections()[where]
    assert len(patterns) == 2
    for slug in SLUGS:
        assert sum(fnmatchcase(slug, pattern) for pattern in patterns) == 1, slug


def test_the_workspaces_name_the_servers_that_compose_starts() -> None:
    whole, split = read(COMPOSE / "compose.yaml")["services"], read(COMPOSE / "compose.split.yaml")["services"]
    for file, services in (("workspace.yaml", whole), ("workspace.split.yaml", {**whole, **split})):
        for entry in read(COMPOSE / file)["load_from"]:
            server = entry["grpc_server"]
            command = services[server["host"]]["command"]
            assert command[command.index("-p") + 1] == str(server["port"])
            assert command[command.index("--location-name") + 1] == server["location_name"]


def test_every_service_of_ours_waits_for_what_it_needs_and_is_watched() -> None:
    services = read(COMPOSE / "compose.yaml")["services"]
    for name, service in services.items():
        assert "healthcheck" in service or name == "init", name
        for needed, how in service.get("depends_on", {}).items():
            condition = how["condition"]
            assert condition == ("service_completed_successfully" if needed == "init" else "service_healthy")
            assert needed in services


def test_no_deployed_file_holds_a_secret() -> None:
    secret = re.compile(r"(?i)(password|secret_key|token)\w*[\"']?\s*[:=]\s*[\"']?(?!\{|/run/secrets/|\$|\[|false|$)\S")
    for file in sorted(DEPLOY.rglob("*")):
        if file.is_file() and "secrets" not in file.parts:
            assert not secret.findall(file.read_text()), file.name


def entrypoint(folder: Path, *command: str, **environ: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["sh", str(COMPOSE / "entrypoint.sh"), *command],
        env={"PATH": os.environ["PATH"], "SECRETS_FOLDER": str(folder), **environ},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_secret_in_a_file_is_a_variable_of_the_process(tmp_path: Path) -> None:
    (tmp_path / "one").write_text('it\'s $HOME `a` "b"\n')
    done = entrypoint(tmp_path, "sh", "-c", 'printf %s "$PGPASSWORD"', PGPASSWORD_FILE=f"{tmp_path}/one")
    assert done.stdout == 'it\'s $HOME `a` "b"'


def test_a_file_that_is_no_secret_of_ours_stays_a_path(tmp_path: Path) -> None:
    done = entrypoint(tmp_path / "secrets", "env", SSL_CERT_FILE=f"{tmp_path}/nowhere")
    assert done.returncode == 0
    assert "SSL_CERT=" not in done.stdout


def test_a_secret_that_is_missing_stops_the_process_with_its_name(tmp_path: Path) -> None:
    done = entrypoint(tmp_path, "echo", "started", PGPASSWORD_FILE=f"{tmp_path}/one")
    assert done.returncode == 1
    assert "PGPASSWORD_FILE" in done.stderr
    assert "started" not in done.stdout


@pytest.mark.parametrize("files", [("compose.yaml",), ("compose.yaml", "compose.split.yaml")], ids=["whole", "split"])
def test_docker_compose_reads_the_files(files: tuple[str, ...]) -> None:
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        pytest.skip("No docker client with compose.")
    named = [word for file in files for word in ("-f", str(COMPOSE / file))]
    done = subprocess.run(
        [docker, "compose", *named, "--profile", "celery", "--profile", "split", "config", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
