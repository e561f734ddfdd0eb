// node node.mjs APP..: what an application does with analytics-node. An APP is JSON, `{ host, calls, key, size }`: the six calls, or three
// of which one is bad, `size` of them in a request. All of them run beside each other.
import { Analytics } from '@segment/analytics-node'

const nested = (depth) => (depth === 0 ? 1 : { a: nested(depth - 1) })
const userId = 'ada'

async function run({ host, calls, key, size }) {
  const analytics = new Analytics({ writeKey: key, host: `http://${host}`, flushAt: size, flushInterval: 60_000 })
  analytics.on('error', (error) => console.log('sdk error:', error.code, String(error.reason)))
  if (calls === 'all') {
    analytics.identify({ userId, traits: { plan: 'pro' } })
    analytics.track({
      userId,
      event: 'Order Placed',
      properties: { total: 12.5 },
      integrations: { Mixpanel: false },
      timestamp: new Date('2024-05-01T12:00:00.000Z'),
    })
    analytics.page({ userId, category: 'Docs', name: 'Start', properties: { path: '/x' } })
    analytics.screen({ userId, name: 'Main', properties: { dark: true } })
    analytics.group({ userId, groupId: 'acme', traits: { size: 3 } })
    analytics.alias({ userId, previousId: 'anon-1' })
  } else {
    for (const event of ['before', 'bad', 'after']) {
      analytics.track({ userId, event, properties: event === 'bad' ? nested(70) : {} })
    }
  }
  await analytics.closeAndFlush({ timeout: 60_000 })
  console.log('done')
}

await Promise.all(process.argv.slice(2).map((app) => run(JSON.parse(app))))
