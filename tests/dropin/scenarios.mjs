// What users do with node-llama-cpp. Run by node.py once for each library, in its own process; prints one line of JSON for
// each scenario: its name, whether it did what it should, and what it gave.
//
//     node scenarios.mjs PACKAGE_FOLDER MODEL

import path from "node:path";
import process from "node:process";
import {pathToFileURL} from "node:url";

const [packageFolder, modelPath] = process.argv.slice(2);
const {getLlama, LlamaChatSession, LlamaCompletion} = await import(
    pathToFileURL(path.join(packageFolder, "node_modules", "node-llama-cpp", "dist", "index.js")).href
);

const llama = await getLlama({gpu: false, build: "never", progressLogs: false, maxThreads: 2});
const model = await llama.loadModel({modelPath, useMmap: true});

function expect(condition, message) {
    if (!condition)
        throw new Error(message);
}

async function withContext(options, use) {
    const context = await model.createContext({contextSize: 1024, threads: 2, ...options});
    try {
        return await use(context);
    } finally {
        await context.dispose();
    }
}

const scenarios = {
    async "tokens"() {
        const tokens = model.tokenize("Hello world, how are you? 😀");
        expect(model.detokenize(tokens) === "Hello world, how are you? 😀", "text differs after tokenizing");
        return tokens;
    },
    async "chat"() {
        return await withContext({}, async (context) => {
            const session = new LlamaChatSession({contextSequence: context.getSequence()});
            const first = await session.prompt("What is the capital of France?", {temperature: 0, maxTokens: 32});
            expect(first.includes("Paris"), first);
            const second = await session.prompt("And of Italy?", {temperature: 0, maxTokens: 32});
            return [first, second];
        });
    },
    async "streaming chat"() {
        return await withContext({}, async (context) => {
            const session = new LlamaChatSession({contextSequence: context.getSequence()});
            let streamed = "";
            const text = await session.prompt("Count from one to five.", {
                temperature: 0, maxTokens: 32, onTextChunk(chunk) { streamed += chunk; }
            });
            expect(streamed.trim() === text.trim(), `${streamed} and ${text}`);
            return text;
        });
    },
    async "JSON grammar"() {
        const grammar = await llama.createGrammarForJsonSchema({
            type: "object",
            properties: {city: {type: "string"}, inhabitants: {type: "integer"}}
        });
        return await withContext({}, async (context) => {
            const session = new LlamaChatSession({contextSequence: context.getSequence()});
            const text = await session.prompt("Describe Paris.", {grammar, temperature: 0, maxTokens: 96});
            const value = grammar.parse(text);
            expect(typeof value.city === "string" && Number.isInteger(value.inhabitants), text);
            return text;
        });
    },
    async "completion"() {
        return await withContext({}, async (context) => {
            const completion = new LlamaCompletion({contextSequence: context.getSequence()});
            return await completion.generateCompletion("The capital of France is", {temperature: 0, maxTokens: 24});
        });
    },
    async "samplers with a seed"() {
        return await withContext({}, async (context) => {
            const completion = new LlamaCompletion({contextSequence: context.getSequence()});
            return await completion.generateCompletion("The capital of France is", {
                temperature: 0.7, seed: 7, topK: 20, topP: 0.9, minP: 0.05, maxTokens: 24,
                repeatPenalty: {penalty: 1.1, frequencyPenalty: 0.1, presencePenalty: 0.1}
            });
        });
    },
    async "several sequences"() {
        return await withContext({sequences: 2}, async (context) => {
            const prompts = ["The capital of France is", "The largest planet is"];
            return await Promise.all(prompts.map(async (prompt) => {
                const completion = new LlamaCompletion({contextSequence: context.getSequence()});
                return await completion.generateCompletion(prompt, {temperature: 0, maxTokens: 16});
            }));
        });
    },
    async "context shift"() {
        return await withContext({contextSize: 256}, async (context) => {
            const session = new LlamaChatSession({contextSequence: context.getSequence()});
            const text = await session.prompt("Tell a long story about a fox.", {temperature: 0, maxTokens: 320});
            expect(text.length > 400, text);
            return text.slice(0, 200);
        });
    },
    async "state of a sequence"() {
        const file = path.join(process.cwd(), `node-state-${process.pid}.bin`);
        return await withContext({sequences: 2}, async (context) => {
            const tokens = model.tokenize("The capital of France is");
            const sequence = context.getSequence();
            await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, -1));
            await sequence.saveStateToFile(file);
            const next = async (from) => {
                const generated = [];
                for await (const token of from.evaluate(tokens.slice(-1), {temperature: 0})) {
                    generated.push(token);
                    if (generated.length >= 12)
                        break;
                }
                return model.detokenize(generated);
            };
            const first = await next(sequence);
            const other = context.getSequence();
            await other.loadStateFromFile(file, {acceptRisk: true});
            const again = await next(other);
            expect(first === again, `${first} and ${again}`);
            return first;
        });
    },
    async "embeddings"() {
        const context = await model.createEmbeddingContext({contextSize: 256, threads: 2});
        const embedding = await context.getEmbeddingFor("The capital of France");
        expect(embedding.vector.length > 0 && embedding.vector.every(Number.isFinite), "not numbers");
        const scale = Math.max(...embedding.vector.map(Math.abs));
        return embedding.vector.map((x) => Math.round(500 * x / scale));
    }
};

for (const [name, scenario] of Object.entries(scenarios)) {
    let line;
    try {
        line = {name, passed: true, result: await scenario()};
    } catch (error) {
        line = {name, passed: false, result: String(error?.message ?? error).slice(0, 300)};
    }
    console.log(JSON.stringify(line));
}
process.exit(0);
