#!/usr/bin/env python3
"""Enrols a photo and renders the person, with a client generated from the proto files.

usage: LIKENESS_ENDPOINT=http://127.0.0.1:7400 LIKENESS_API_KEY=lk_... client.py PHOTO FOLDER
needs: pip install grpcio-tools protobuf
"""

import os
import pathlib
import sys
import tempfile
import urllib.request
import uuid


def generate():
    """Generates the client next to nothing: into a temporary folder, which is then importable."""
    from grpc_tools import protoc

    protos = pathlib.Path(__file__).resolve().parents[2] / "proto"
    well_known = pathlib.Path(protoc.__file__).parent / "_proto"
    out = tempfile.mkdtemp(prefix="likeness-client-")
    files = sorted(str(path) for path in protos.glob("likeness/v1/*.proto"))
    args = ["protoc", f"-I{protos}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(args + files) != 0:
        sys.exit("the client could not be generated")
    sys.path.insert(0, out)


def main(photo, folder):
    generate()
    import grpc
    from likeness.v1 import identity_pb2, identity_pb2_grpc, render_pb2, render_pb2_grpc

    address = os.environ["LIKENESS_ENDPOINT"].removeprefix("http://")
    key = [("authorization", f"Bearer {os.environ['LIKENESS_API_KEY']}")]
    with grpc.insecure_channel(address) as channel:
        identities = identity_pb2_grpc.IdentityServiceStub(channel)
        renders = render_pb2_grpc.RenderServiceStub(channel)

        consent = identity_pb2.Consent(reference="signed form 7")
        identity = identities.CreateIdentity(
            identity_pb2.CreateIdentityRequest(
                identity=identity_pb2.Identity(consent=consent), request_id=str(uuid.uuid4())
            ),
            metadata=key,
        ).identity
        photos = [pathlib.Path(photo).read_bytes()]
        identities.AddPhotos(identity_pb2.AddPhotosRequest(parent=identity.name, photos=photos), metadata=key)
        for news in identities.WatchIdentity(identity_pb2.WatchIdentityRequest(name=identity.name), metadata=key):
            if news.identity.state == identity_pb2.IDENTITY_STATE_READY:
                break
            if news.identity.state == identity_pb2.IDENTITY_STATE_EMPTY:
                sys.exit(f"refused: {news.photos[0].rejection.message}")

        try:
            render = renders.CreateRender(
                render_pb2.CreateRenderRequest(
                    render=render_pb2.Render(
                        identities=[render_pb2.WeightedIdentity(identity=identity.name)],
                        prompt="a portrait in a garden, soft light",
                        steps=8,
                    ),
                    request_id=str(uuid.uuid4()),
                ),
                metadata=key,
            ).render
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")
        for event in renders.WatchRender(render_pb2.WatchRenderRequest(name=render.name), metadata=key):
            if event.WhichOneof("event") == "progress":
                print(f"step {event.progress.step} of {event.progress.steps}")
            if event.WhichOneof("event") == "render":
                render = event.render
        if render.state != render_pb2.RENDER_STATE_SUCCEEDED:
            sys.exit(f"the render ended as {render_pb2.RenderState.Name(render.state)}: {render.error.message}")
        for position, image in enumerate(render.images):
            path = pathlib.Path(folder) / f"{position}.png"
            path.write_bytes(urllib.request.urlopen(image.url).read())
            print(path)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2])
