"""App without a limiter: the baseline of the comparison."""

from fastapi import FastAPI

from contenders.export import Export, Queued, queue

app = FastAPI()


@app.post("/exports")
async def create_export(export: Export) -> Queued:
    """Queue an export."""
    return queue(export)
