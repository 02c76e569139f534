"""Both functions as `sam build` leaves them, deployed by `sam deploy` into the stand-in, and run by `sam local invoke`.

Each runs in a container of its own, with the environment and the rights that the stack gave it. Where AWS's image of
the runtime cannot be pulled, one is put together from this machine's own programs: that shows that the parts fit
together, not that the artifacts fit Amazon Linux.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from samcli.yamlhelper import yaml_dump, yaml_parse

import local

BUILD = local.ROOT / ".aws-sam" / "build"
SAM = Path(sys.executable).parent / "sam"
AWS_IMAGE = "public.ecr.aws/lambda/provided:al2023-x86_64"
OWN_IMAGE = "aisoc-security-hub/stand-in-for-provided:al2023-x86_64"
# What SAM runs inside the image, and what the functions look names up with.
PROGRAMS = ["bash", "mv", "chmod", "ls", "cat", "cp", "rm"]
LIBRARIES = ["libc", "libm", "libgcc_s", "libdl", "libpthread", "librt", "libresolv", "libnss_dns", "libnss_files"]
FOLDERS = ["var/task", "var/runtime", "var/rapid", "opt", "tmp", "bin", "lib64", "etc/ssl/certs"]
STACK = "aisoc-sam-local"


class Failed(Exception):
    """What is to be shown cannot be."""


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], text=True, capture_output=True, check=False, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command[:3]))} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def bridge() -> str:
    """The address at which containers reach this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        request = struct.pack("256s", b"docker0")
        try:
            return socket.inet_ntoa(fcntl.ioctl(s.fileno(), 0x8915, request)[20:24])  # SIOCGIFADDR
        except OSError:
            raise Failed("Docker has no bridge docker0: the containers could not reach the stand-in") from None


def image() -> str:
    """The image of the runtime to run functions in: AWS's, or else one of our own, under a name of our own."""
    for make_sure in (("image", "inspect"), ("pull", "--quiet")):
        with contextlib.suppress(Failed, subprocess.TimeoutExpired):
            run("docker", *make_sure, AWS_IMAGE, timeout=600)
            return AWS_IMAGE
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "root.tar"
        assemble(Path(folder) / "root")
        run("tar", "--create", "--file", archive, "--directory", Path(folder) / "root", ".")
        settings = ["WORKDIR /var/task", "ENV PATH=/bin LAMBDA_TASK_ROOT=/var/task"]
        changes = [part for setting in settings for part in ("--change", setting)]
        run("docker", "import", *changes, archive, OWN_IMAGE)
    return OWN_IMAGE


def assemble(root: Path) -> None:
    for folder in FOLDERS:
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)
    needed: set[Path] = set()
    for name in PROGRAMS:
        program = Path(shutil.which(name) or "")
        shutil.copy(program.resolve(), root / "bin" / name)
        needed |= libraries(program)
    shutil.copy(root / "bin" / "bash", root / "bin" / "sh")
    folders = {path.parent for path in needed}
    needed |= {p for folder in folders for name in LIBRARIES for p in folder.glob(f"{name}.so.*")}
    for path in needed:
        # Where the loader looks, which need not be where the file is.
        target = root / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.resolve(), target)
    if (certificates := Path("/etc/ssl/certs/ca-certificates.crt")).exists():
        shutil.copy(certificates, root / "etc/ssl/certs")
    (root / "etc/passwd").write_text("root:x:0:0::/tmp:/bin/sh\nsbx_user1051:x:993:990::/tmp:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\nsbx_user1051:x:990:\n")
    (root / "etc/nsswitch.conf").write_text("hosts: files dns\n")


def libraries(program: Path) -> set[Path]:
    words = run("ldd", program).stdout.split()
    return {Path(word) for word in words if word.startswith("/")}


def deploy(aws: local.StandIn, build: Path = BUILD) -> local.Stack:
    """What `sam build` left, deployed by the SAM CLI as into an account, with a block list."""
    vpc = aws.client("ec2").describe_vpcs()["Vpcs"][0]["VpcId"]
    run(
        *(SAM, "deploy", "--template-file", build / "template.yaml", "--stack-name", STACK),
        *("--resolve-s3", "--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--config-env", "none"),
        *("--parameter-overrides", "InitialLookbackSeconds=0", f"VpcId={vpc}"),
        # S3 gives the template's URL to CloudFormation, and the stand-in takes one of its own only by this name.
        env=environment(aws.url.replace("127.0.0.1", "localhost"), local.CREDENTIALS),
        cwd=local.ROOT,
    )
    return local.Stack(aws, STACK)


def environment(url: str, credentials: dict[str, str]) -> dict[str, str]:
    own = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    more = {"AWS_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": local.REGION, "SAM_CLI_TELEMETRY": "0"}
    return {**own, **more, **credentials}


def template_for_containers() -> Path:
    """The built template, with the one variable more that leads to the stand-in: SAM sets none that is not declared."""
    template = yaml_parse((BUILD / "template.yaml").read_text())
    template["Globals"]["Function"]["Environment"] = {"Variables": {"AWS_ENDPOINT_URL": ""}}
    path = BUILD / "template-local.yaml"
    path.write_text(yaml_dump(template))
    return path


def invoke(stack: local.Stack, function: str, event: str, url: str, in_image: str) -> Any:
    """The answer of a function in its container."""
    variables = stack.environment(function)
    keys = {name: variables.pop(name) for name in list(variables) if name in local.CREDENTIALS}
    variables["AWS_ENDPOINT_URL"] = url
    with tempfile.TemporaryDirectory() as folder:
        overrides, payload = Path(folder) / "variables.json", Path(folder) / "event.json"
        overrides.write_text(json.dumps({function: variables}))
        payload.write_text(event)
        done = run(
            *(SAM, "local", "invoke", function, "--template", template_for_containers(), "--event", payload),
            *("--env-vars", overrides, "--invoke-image", in_image, "--skip-pull-image", "--config-env", "none"),
            env=environment(url, keys),
            cwd=local.ROOT,
        )
    lines = [line for line in done.stdout.splitlines() if line.startswith(("{", "["))]
    answers = [answer for answer in map(json.loads, lines) if "_aws" not in answer and "level" not in answer]
    if not answers:
        raise Failed(f"{function} gave no answer:\n{done.stdout}{done.stderr}")
    # SAM ends well also where the function does not.
    if "errorType" in answers[-1]:
        raise Failed(f"{function} failed: {answers[-1]}\n{done.stderr}")
    return answers[-1]


def check(condition: bool, claim: str, found: Any) -> None:
    if not condition:
        raise Failed(f"not so: {claim}\n{found}")
    print(f"   {claim}")


def main() -> None:
    try:
        run("docker", "info")
    except (Failed, FileNotFoundError):
        raise Failed("no Docker daemon can be reached, and sam local invoke runs functions in containers") from None
    in_image = image()
    print(f"image: {in_image}")
    if in_image == OWN_IMAGE:
        print("   (put together from this machine's own programs, for AWS's cannot be pulled)")
    with local.StandIn(bridge()) as aws:
        (url,) = aws.urls
        hub, sqs = aws.client("securityhub"), aws.client("sqs")
        hub.enable_security_hub()
        texts = [path.read_text().strip() for path in sorted((local.LOCAL / "findings").glob("*.json"))]
        aws.import_findings(texts)

        print("sam deploy into the stand-in")
        stack = deploy(aws)
        check(len(stack.outputs) > 10, f"stack {stack.name}: {len(stack.resources)} resources", stack.outputs)

        print("sam local invoke Poller")
        answer = invoke(stack, "Poller", local.event("poll-test-connection"), url, in_image)
        check(answer["success"], "poll-test-connection: Security Hub answers", answer)
        answer = invoke(stack, "Poller", local.event("poll-scheduler"), url, in_image)
        check(answer["complete"] and answer["events_sent"] == 6, "poll-scheduler: 6 events sent", answer)
        events = [json.loads(message["Body"]) for message in local.drain(sqs, stack.outputs["FindingsQueueUrl"])]
        check(len(events) == 6, "6 events on the findings queue", events)

        print("sam local invoke Containment")
        group = stack.outputs["BlockListId"]
        for name, expected in (("block-ip", True), ("allow-ip", False)):
            event = local.event(name).replace("sg-0123456789abcdef0", group)
            answer = invoke(stack, "Containment", event, url, in_image)
            is_so = answer["status"] == "succeeded" and answer["verified"] and answer["enforced"] is expected
            check(is_so, f"{name}: {answer['summary']}", answer)
        answer = invoke(stack, "Containment", local.event("bad-target-private"), url, in_image)
        check(answer["status"] == "blocked", f"bad-target-private: {answer['summary']}", answer)
        answer = invoke(stack, "Containment", local.event("audit"), url, in_image)
        check(answer["complete"], "audit: complete", answer)
        answer = invoke(stack, "Containment", local.event("list-blocks"), url, in_image)
        check(answer == {"blocks": []}, "list-blocks: nothing is blocked any more", answer)
        results = local.drain(sqs, stack.outputs["ResultsQueueUrl"])
        check(len(results) == 3, "3 results on the results queue", results)
    print("Shown: both artifacts, deployed by the SAM CLI, answer in their containers with the rights of their roles.")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"sam-local: {failure}")
