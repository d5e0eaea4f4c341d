// node .ci/wasi.mjs PROGRAM ARGUMENT...: runs a WebAssembly program that sees the whole file system.
import { readFileSync } from 'node:fs';
import { WASI } from 'node:wasi';
const wasi = new WASI({ version: 'preview1', args: process.argv.slice(2), preopens: { '/': '/' }, returnOnExit: true });
const program = await WebAssembly.compile(readFileSync(process.argv[2]));
process.exit(wasi.start(await WebAssembly.instantiate(program, wasi.getImportObject())));
