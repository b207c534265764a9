# SPDX-License-Identifier: Apache-2.0
# Sends back what it gets. usage: echo.py PORT
import asyncio, sys


async def serve(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
        await writer.drain()
    except ConnectionError:
        pass  # the client sees it
    finally:
        writer.close()


async def main():
    server = await asyncio.start_server(serve, "0.0.0.0", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
