"""Smoke test of a running DICE-Talk API, and an example of a client. It needs nothing but `requests`.

python test_api.py            make a video of the shipped example and check it
python test_api.py health     only ask the service how it is

The exit code is 0 when all went well and 1 when it did not.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import requests

EXAMPLES = Path(__file__).resolve().parent / "examples"
EMOTIONS = ["contempt", "sad", "happy", "surprised", "angry", "disgusted", "fear", "neutral"]
TIMEOUT = (5, 120)  # seconds to connect, and between two bytes of an answer


class SmokeTestError(Exception):
    """Something went wrong; the text says what."""


def checked(response: requests.Response) -> requests.Response:
    """The response, if it is a success. Every error of the service is JSON with a sentence in `error`."""
    if response.ok:
        return response
    try:
        body = response.json()
        sentence = " ".join(part for part in (body["error"], body["detail"]) if part)
    except (ValueError, KeyError, TypeError):
        sentence = response.reason
    raise SmokeTestError(f"The service answered {response.status_code}: {sentence}")


def health(url: str) -> dict[str, Any]:
    """How the service is. It takes jobs while `status` is "healthy"."""
    answer: dict[str, Any] = checked(requests.get(f"{url}/api/health", timeout=TIMEOUT)).json()
    return answer


def start(url: str, image: Path, audio: Path, emotion: str) -> str:
    """Hand in the portrait and the speech; returns the id of the task."""
    with image.open("rb") as portrait, audio.open("rb") as speech:
        response = requests.post(
            f"{url}/api/v1/synthesis/start",
            files={"image": portrait, "audio": speech},
            data={"emotion": emotion},
            timeout=TIMEOUT,
        )
    return str(checked(response).json()["task_id"])


def wait(url: str, task_id: str) -> None:
    """Ask for the status until the task has ended; show it on one line of a terminal, or at every tenth elsewhere."""
    terminal, tenth = sys.stdout.isatty(), -1
    while True:
        task = checked(requests.get(f"{url}/api/v1/synthesis/{task_id}/status", timeout=TIMEOUT)).json()
        ended = task["status"] in ("COMPLETED", "FAILED")
        line = f"{task['progress']:4.0%}  {task['status']}  {task['message']}"
        if terminal:
            print(f"\r{line:<79}", end="\n" if ended else "", flush=True)
        elif ended or int(task["progress"] * 10) > tenth:
            tenth = int(task["progress"] * 10)
            print(line, flush=True)
        if task["status"] == "COMPLETED":
            return
        if task["status"] == "FAILED":
            raise SmokeTestError(f"The task failed ({task['error_code']}): {task['message']}")
        time.sleep(0.5)


def download(url: str, task_id: str, output: Path) -> None:
    """Save the finished video."""
    address = f"{url}/api/v1/synthesis/{task_id}/download"
    with checked(requests.get(address, stream=True, timeout=TIMEOUT)) as response, output.open("wb") as file:
        for chunk in response.iter_content(chunk_size=1 << 20):
            file.write(chunk)
    check_video(output, int(response.headers["Content-Length"]))


def check_video(path: Path, expected_size: int) -> None:
    """Is it an mp4, and all of it?"""
    size = path.stat().st_size
    if size == 0 or size != expected_size:
        raise SmokeTestError(f"{path} has {size} bytes; the service announced {expected_size}.")
    with path.open("rb") as file:
        if file.read(8)[4:] != b"ftyp":
            raise SmokeTestError(f"{path} is no mp4 file.")


def show_health(url: str) -> None:
    """Print how the service is; an unhealthy one is a failure."""
    answer = health(url)
    print(f"{url}: {answer['status']}, {answer['state']}, engine {answer['engine']}, version {answer['version']}")
    if answer["reason"]:
        print(answer["reason"])
    if answer["status"] != "healthy":
        raise SmokeTestError("The service takes no jobs now.")


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    parser = argparse.ArgumentParser(description="Smoke test of a running DICE-Talk API.")
    parser.add_argument("what", nargs="?", choices=["all", "health"], default="all", help="default: all")
    parser.add_argument("--url", default=os.environ.get("DICE_TALK_URL", "http://127.0.0.1:8000"))
    parser.add_argument("--image", type=Path, default=EXAMPLES / "portrait.jpg", help="portrait, jpg or png")
    parser.add_argument("--audio", type=Path, default=EXAMPLES / "speech_en.wav", help="speech, wav or mp3")
    parser.add_argument("--emotion", choices=EMOTIONS, default="happy")
    parser.add_argument("--output", type=Path, default=Path("result.mp4"), help="where the video goes")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    try:
        show_health(url)
        if options.what == "all":
            task_id = start(url, options.image, options.audio, options.emotion)
            print(f"Task {task_id}")
            wait(url, task_id)
            download(url, task_id, options.output)
            print(f"The video is {options.output.resolve()} ({options.output.stat().st_size} bytes).")
    except KeyboardInterrupt:
        print("Stopped; the task goes on without us.", file=sys.stderr)
    except requests.ConnectionError:
        print(f"No connection to {url}. Does the service run? ./start_server.sh starts it.", file=sys.stderr)
    except (SmokeTestError, OSError) as error:
        print(error, file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
