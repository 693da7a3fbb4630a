// Load test for k6 (https://k6.io):
//     k6 run -e URL=http://localhost:8080 -e RATE=20 deploy/load.k6.js
// It is an open loop: RATE requests per second arrive, whether or not earlier ones have been
// answered. It fails if more than one in a hundred requests fails, or if the p99 exceeds P99 ms.
import http from 'k6/http';
import { check } from 'k6';

const url = __ENV.URL || 'http://localhost:8080';
const texts = [
  '怎么退货？', '我想查一下我的订单到哪儿了。', '请问你们的客服电话是多少，周末有人接吗？', '收到的水壶坏了，可以退吗？运费由谁来承担？',
  '我上个星期在你们店里买了一件衬衫，穿了一次就开线了，洗的时候也完全按照标签上的说明来的，这种情况能不能换一件新的，或者把钱退给我？',
];

export const options = {
  scenarios: {
    steady: {
      executor: 'constant-arrival-rate', rate: Number(__ENV.RATE || 20), timeUnit: '1s', duration: __ENV.DURATION || '1m',
      preAllocatedVUs: 50, maxVUs: 1000,
    },
  },
  thresholds: {
    http_req_failed: ['rate<0.01'],
    http_req_duration: [`p(99)<${__ENV.P99 || 2000}`],
  },
};

export default function () {
  const text = texts[Math.floor(Math.random() * texts.length)];
  const headers = { 'Content-Type': 'application/json' };
  if (__ENV.KEY) headers.Authorization = `Bearer ${__ENV.KEY}`;
  const answer = http.post(`${url}/v1/embedding`, JSON.stringify({ text }), { headers });
  check(answer, { 'a vector': (r) => r.status === 200 && r.json('embedding').length === r.json('dimension') });
}
