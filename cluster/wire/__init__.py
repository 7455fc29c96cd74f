"""What travels between robot and server. Imports only numpy, httpx, websockets and msgpack beside the standard library."""
