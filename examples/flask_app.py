"""Background generation in Flask, without `async`: `darkq.sync` has the same names.

    flask --app flask_app run
    curl -s localhost:5000/jobs --json '{"prompt": "Why do people queue?"}'
    curl -sN localhost:5000/jobs/<id>/events

One client serves all threads of a process, and survives the fork of gunicorn and uWSGI. A reader
that has seen all gets 204, which ends an EventSource. Behind gunicorn a thread waits for each
reader, and its end for them all, up to `--graceful-timeout`:

    gunicorn --threads 100 --graceful-timeout 5 flask_app:app
"""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask, Response, abort, jsonify, request, url_for

from darkq import CursorGone, InvalidJob, JobNotFound, event, sse
from darkq.sync import Client

FINISHED = ("completed", "failed", "cancelled")

app = Flask(__name__)
client = Client()


@app.post("/jobs")
def create() -> tuple[Response, int]:
    """Store a job. When this answers, the job will be run."""
    question = request.get_json()
    job = client.enqueue(question.get("prompt", "") if isinstance(question, dict) else "")
    return jsonify(id=job.id, events=url_for("events", job_id=job.id)), 202


@app.get("/jobs/<job_id>")
def show(job_id: str) -> Response:
    """Return the status of a job."""
    status = client.job(job_id).status()
    return jsonify(id=status.job_id, state=status.state, attempt=status.attempt)


@app.get("/jobs/<job_id>/events")
def events(job_id: str) -> Response:
    """Stream a job's events: the past first, then live, to the end."""
    job = client.job(job_id)
    status = job.status()  # an unknown job is a 404, not an empty stream
    after = request.headers.get("last-event-id")
    if after:
        check_cursor(after)
        if status.state in FINISHED and next(job.events(after), None) is None:
            return Response(status=204)  # which stops an EventSource permanently

    def stream() -> Iterator[bytes]:
        for each in job.events(after=after):
            yield sse.encode(event.encode(each).decode(), id=each.id)

    return Response(stream(), mimetype="text/event-stream", headers={"x-accel-buffering": "no"})


def check_cursor(text: str) -> None:
    try:
        event.Cursor.parse(text)
    except ValueError as error:
        abort(400, str(error))


@app.errorhandler(InvalidJob)
def invalid(error: InvalidJob) -> tuple[Response, int]:
    return jsonify(detail=str(error)), 422


@app.errorhandler(JobNotFound)
def unknown(error: JobNotFound) -> tuple[Response, int]:
    return jsonify(detail=str(error)), 404


@app.errorhandler(CursorGone)
def gone(error: CursorGone) -> tuple[Response, int]:
    return jsonify(detail=str(error)), 410
