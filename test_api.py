"""Smoke test for a running DICE-Talk API and example client. Its only dependency is `requests`.

python test_api.py            generate a video from the bundled example and validate it
python test_api.py health     only query the health endpoint

Exit code: 0 on success, 1 on failure.
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
# Connect and read timeout in seconds.
TIMEOUT = (5, 120)


class SmokeTestError(Exception):
    """A failed check; the message is shown to the user."""


def checked(response: requests.Response) -> requests.Response:
    """Return a successful response, otherwise raise SmokeTestError with `error` and `detail` of the JSON body."""
    if response.ok:
        return response
    try:
        body = response.json()
        message = " ".join(part for part in (body["error"], body["detail"]) if part)
    except (ValueError, KeyError, TypeError):
        message = response.reason
    raise SmokeTestError(f"The service returned {response.status_code}: {message}")


def health(url: str) -> dict[str, Any]:
    """Query the service health. The service accepts tasks while `status` is "healthy"."""
    body: dict[str, Any] = checked(requests.get(f"{url}/api/health", timeout=TIMEOUT)).json()
    return body


def start(url: str, image: Path, audio: Path, emotion: str) -> str:
    """Submit a portrait and a speech recording; returns the task ID."""
    with image.open("rb") as portrait, audio.open("rb") as speech:
        response = requests.post(
            f"{url}/api/v1/synthesis/start",
            files={"image": portrait, "audio": speech},
            data={"emotion": emotion},
            timeout=TIMEOUT,
        )
    return str(checked(response).json()["task_id"])


def wait(url: str, task_id: str) -> None:
    """Poll the task until it finishes. Progress updates in place on a terminal, else is printed in steps of 10%."""
    terminal, last_step = sys.stdout.isatty(), -1
    while True:
        task = checked(requests.get(f"{url}/api/v1/synthesis/{task_id}/status", timeout=TIMEOUT)).json()
        finished = task["status"] in ("COMPLETED", "FAILED")
        line = f"{task['progress']:4.0%}  {task['status']}  {task['message']}"
        if terminal:
            print(f"\r{line:<79}", end="\n" if finished else "", flush=True)
        elif finished or int(task["progress"] * 10) > last_step:
            last_step = int(task["progress"] * 10)
            print(line, flush=True)
        if task["status"] == "COMPLETED":
            return
        if task["status"] == "FAILED":
            raise SmokeTestError(f"The task failed ({task['error_code']}): {task['message']}")
        time.sleep(0.5)


def download(url: str, task_id: str, output: Path) -> None:
    """Download the video of a completed task and validate it."""
    video_url = f"{url}/api/v1/synthesis/{task_id}/download"
    with checked(requests.get(video_url, stream=True, timeout=TIMEOUT)) as response, output.open("wb") as file:
        for chunk in response.iter_content(chunk_size=1 << 20):
            file.write(chunk)
    check_video(output, int(response.headers["Content-Length"]))


def check_video(path: Path, expected_size: int) -> None:
    """Check that the file is complete and an MP4 file."""
    size = path.stat().st_size
    if size == 0 or size != expected_size:
        raise SmokeTestError(f"{path} is incomplete: {size} of {expected_size} bytes.")
    with path.open("rb") as file:
        if file.read(8)[4:] != b"ftyp":
            raise SmokeTestError(f"{path} is not an MP4 file.")


def show_health(url: str) -> None:
    """Print the service health. Raises SmokeTestError if the service is unhealthy."""
    body = health(url)
    print(f"{url}: {body['status']}, {body['state']}, engine {body['engine']}, version {body['version']}")
    if body["reason"]:
        print(body["reason"])
    if body["status"] != "healthy":
        raise SmokeTestError("The service does not accept tasks.")


def main() -> int:
    """Command-line entry point; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Smoke test for a running DICE-Talk API.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=["all", "health"], default="all", help="checks to run")
    parser.add_argument("--url", default=os.environ.get("DICE_TALK_URL", "http://127.0.0.1:8000"), help="service URL")
    parser.add_argument("--image", type=Path, default=EXAMPLES / "portrait.jpg", help="portrait, JPEG or PNG")
    parser.add_argument("--audio", type=Path, default=EXAMPLES / "speech_en.wav", help="speech, WAV or MP3")
    parser.add_argument("--emotion", choices=EMOTIONS, default="happy", help="emotion of the video")
    parser.add_argument("--output", type=Path, default=Path("result.mp4"), help="output file")
    options = parser.parse_args()
    url = options.url.rstrip("/")
    try:
        show_health(url)
        if options.what == "all":
            task_id = start(url, options.image, options.audio, options.emotion)
            print(f"Task {task_id}")
            wait(url, task_id)
            download(url, task_id, options.output)
            print(f"Video saved to {options.output.resolve()} ({options.output.stat().st_size} bytes).")
    except KeyboardInterrupt:
        print("Interrupted. A submitted task continues to run.", file=sys.stderr)
    except requests.ConnectionError:
        print(f"Cannot connect to {url}. Start the service with ./start_server.sh.", file=sys.stderr)
    except (SmokeTestError, OSError) as error:
        print(error, file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
