/**
 * Absolute path of the folder that holds the checkpoint: `config.json`, `generation_config.json`,
 * `model.safetensors`, `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`.
 */
export declare const modelPath: string;
