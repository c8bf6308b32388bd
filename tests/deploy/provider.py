"""A provider for the containers: OpenAI's chat completions, whole and streamed, and embeddings."""

import json

from aiohttp import web

PORT = 9000
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


async def chat(request: web.Request) -> web.StreamResponse:
    """Answer as the vendor does."""
    body = await request.json()
    words = [f"{word} " for word in f"You said: {body['messages'][-1]['content']}".split(" ")]
    words[-1] = words[-1].rstrip(" ")
    facts = {"id": "chatcmpl-1", "created": 1, "model": body["model"]}
    if not body.get("stream"):
        message = {"role": "assistant", "content": "".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {**facts, "object": "chat.completion", "choices": [choice], "usage": USAGE}
        return web.json_response(answer)
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    facts["object"] = "chat.completion.chunk"
    for word in words:
        choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
        await send(response, {**facts, "choices": [choice]})
    choice = {"index": 0, "delta": {}, "finish_reason": "stop"}
    await send(response, {**facts, "choices": [choice]})
    await send(response, {**facts, "choices": [], "usage": USAGE})
    await response.write(b"data: [DONE]\n\n")
    return response


async def embed(request: web.Request) -> web.Response:
    """Answer as the vendor does."""
    body = await request.json()
    vectors = [
        {"object": "embedding", "index": index, "embedding": [0.5, -0.5]}
        for index, _ in enumerate(body["input"])
    ]
    usage = {"prompt_tokens": 2, "total_tokens": 2}
    answer = {"object": "list", "model": body["model"], "data": vectors, "usage": usage}
    return web.json_response(answer)


async def send(response: web.StreamResponse, event: object) -> None:
    """Write one event."""
    await response.write(f"data: {json.dumps(event)}\n\n".encode())


if __name__ == "__main__":
    application = web.Application()
    application.router.add_post("/v1/chat/completions", chat)
    application.router.add_post("/v1/embeddings", embed)
    web.run_app(application, port=PORT, print=None)
