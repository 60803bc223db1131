"""Reads what is in deploy/ as machines would: YAML that parses, a chart that renders to the objects it should, each of which
fits Kubernetes' own schema, flags that `tureen serve` has. Helm itself is not at hand, so the chart keeps to values, the
release's name and `if`, which are rendered here.

Usage: deploy.py TUREEN DEPLOY_FOLDER. Prints one JSON line.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import kubernetes_validate
import yaml

tureen, deploy = sys.argv[1], Path(sys.argv[2])
wrong = []


def known_flags(*command):
    text = subprocess.run([tureen, *command, "--help"], check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"--[a-z][a-z-]+", text))


KNOWN = {"serve": known_flags("serve"), "config": known_flags("config", "check")}
used = 0


def check_command(place, words):
    """A command line of tureen, without the program's name."""
    global used
    if not words or words[0] not in KNOWN:
        wrong.append(f"{place}: {words[:1]} is no command that is known here")
        return
    for word in words[1:]:
        if word.startswith("--"):
            used += 1
            if word not in KNOWN[words[0]]:
                wrong.append(f"{place}: tureen {words[0]} has no flag {word}")


# What ending takes beside handing over, in seconds: rooms, workers, links and connections.
TO_END = 15


def check_stop(place, words, grace):
    """Whoever stops a media node must wait for as long as it hands over, and a little."""
    words = [str(word) for word in words]
    if "--drain-on-stop-ms" not in words:
        wrong.append(f"{place}: a media node that is stopped has no time to hand over")
        return
    handing = int(words[words.index("--drain-on-stop-ms") + 1]) / 1000
    if grace < handing + TO_END:
        wrong.append(f"{place}: it is killed after {grace} s, and hands over for {handing} s")


def units():
    files = sorted(deploy.glob("systemd/*.service"))
    for file in files:
        text = file.read_text().replace("\\\n", " ")
        commands = re.findall(r"^Exec\w+=/usr/bin/tureen (.*)$", text, re.MULTILINE)
        if not commands:
            wrong.append(f"{file.name}: starts nothing")
        for command in commands:
            check_command(file.name, command.split())
            if "--roles media" in command:
                check_stop(file.name, command.split(), int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE).group(1)))
    return len(files)


def container():
    text = (deploy / "container/Containerfile").read_text()
    command = re.search(r"^CMD (\[.*\])$", text, re.MULTILINE)
    check_command("Containerfile", json.loads(command.group(1)))


def compose():
    services = yaml.safe_load((deploy / "compose/compose.yaml").read_text())["services"]
    nodes = {name: service for name, service in services.items() if service["image"] == "tureen"}
    roles, ports = {}, []
    for name, service in nodes.items():
        command = [str(word) for word in service["command"]]
        check_command(f"compose.yaml: {name}", command)
        if command[command.index("--node-id") + 1] != name:
            wrong.append(f"compose.yaml: {name} calls itself otherwise")
        role = command[command.index("--roles") + 1]
        roles[role] = roles.get(role, 0) + 1
        if role == "media":
            range_ = command[command.index("--media-ports") + 1]
            ports.append(range_)
            check_stop(f"compose.yaml: {name}", command, int(service["stop_grace_period"].removesuffix("s")))
            for protocol in ("udp", "tcp"):
                if f"{range_}:{range_}/{protocol}" not in service["ports"]:
                    wrong.append(f"compose.yaml: {name} does not publish {range_}/{protocol}")
    if roles != {"signal": 3, "media": 3} or len(set(ports)) != 3:
        wrong.append(f"compose.yaml: not 3 + 3 with ports of their own: {roles} {ports}")
    if not {"redis", "nginx"} <= services.keys():
        wrong.append("compose.yaml: no redis or nginx")
    return len(services)


def render(text, values, release):
    """Values, the release's name, and `if` over a value: all that the chart uses."""

    def value(path):
        found = values
        for name in path.split(".")[2:]:
            found = found[name]
        return found

    def block(match):
        return match.group(2) if value(match.group(1)) else ""

    text = re.sub(r"\{\{- if (\.Values[.\w]+) \}\}(.*?)\{\{- end \}\}", block, text, flags=re.DOTALL)
    text = text.replace("{{ .Release.Name }}", release)
    text = re.sub(r"\{\{ (\.Values[.\w]+) \}\}", lambda match: str(value(match.group(1))), text)
    if "{{" in text:
        raise ValueError(f"cannot be rendered here: {text[text.index('{{'):][:60]}")
    return [document for document in yaml.safe_load_all(text) if document]


# One of 2023, and the newest whose schemas are at hand.
VERSIONS = ["1.27", kubernetes_validate.latest_version()]


def check_schema(place, document):
    """Unknown fields are wrong, too: a cluster would leave them out without a word."""
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            where = ".".join(str(part) for part in error.path)
            wrong.append(f"{place}: {document['kind']} for Kubernetes {version}: {where}: {error.message:.200}")


def chart():
    folder = deploy / "helm/tureen"
    about = yaml.safe_load((folder / "Chart.yaml").read_text())
    if about["apiVersion"] != "v2" or about["name"] != folder.name:
        wrong.append("Chart.yaml: not a chart of this folder's name")
    values = yaml.safe_load((folder / "values.yaml").read_text())
    objects = {}
    for file in sorted(folder.glob("templates/*.yaml")):
        for document in render(file.read_text(), values, "call"):
            key = (document["kind"], document["metadata"]["name"])
            if key in objects or not document.get("apiVersion"):
                wrong.append(f"{file.name}: {key} is there twice, or has no apiVersion")
            check_schema(file.name, document)
            objects[key] = document
    for role in ("signal", "media"):
        stateful = objects[("StatefulSet", f"call-{role}")]["spec"]
        pod = stateful["template"]
        labels = pod["metadata"]["labels"]
        if stateful["selector"]["matchLabels"] != labels:
            wrong.append(f"{role}: the selector does not fit the pods")
        if ("Service", stateful["serviceName"]) not in objects:
            wrong.append(f"{role}: no service {stateful['serviceName']}")
        [box] = pod["spec"]["containers"]
        check_command(f"helm: {role}", [str(word) for word in box["args"]])
        if role == "media":
            check_stop("helm: media", box["args"], pod["spec"]["terminationGracePeriodSeconds"])
        named = set(re.findall(r"\$\((\w+)\)", " ".join(map(str, box["args"]))))
        if named != {variable["name"] for variable in box["env"]}:
            wrong.append(f"{role}: variables that are used and that are set differ")
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        if {mount["name"] for mount in box["volumeMounts"]} != volumes:
            wrong.append(f"{role}: mounts and volumes differ")
        if not objects[("PodDisruptionBudget", f"call-{role}")]["spec"]["selector"]["matchLabels"] == labels:
            wrong.append(f"{role}: the disruption budget is another's")
    backend = objects[("Ingress", "call")]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    service = objects[("Service", backend["name"])]
    if backend["port"]["name"] not in [port["name"] for port in service["spec"]["ports"]]:
        wrong.append("the ingress leads to a port that its service does not have")
    values["ingress"]["enabled"] = False
    if render((folder / "templates/ingress.yaml").read_text(), values, "call"):
        wrong.append("an ingress that is not enabled is there")
    return len(objects)


container()
found = {"units": units(), "services": compose(), "objects": chart(), "flags": used}
print(json.dumps({**found, "wrong": wrong}))
sys.exit(1 if wrong else 0)
