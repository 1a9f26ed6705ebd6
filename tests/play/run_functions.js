// node run_functions.js ENGINE PROGRAM NUMBERS CALLS: evaluates calls, [[function, [arguments…]], …], and prints the results.
// An argument is an array of numbers, or {call, result}: a result of an earlier call.
const fs = require("fs");
const [engine, program, numbers, calls] = process.argv.slice(2);
const bytes = fs.readFileSync(numbers);
const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length);
const functions = require(engine).load(JSON.parse(fs.readFileSync(program, "utf8")), buffer);
const done = [];
for (const [name, given] of JSON.parse(fs.readFileSync(calls, "utf8")))
  done.push(functions[name](...given.map((each) => (Array.isArray(each) ? each : done[each.call][each.result]))));
// JSON has neither NaN nor infinities.
console.log(JSON.stringify(done.map((results) => results.map((array) => Array.from(array, String)))));
