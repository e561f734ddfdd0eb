// node node.mjs HOST all|bad: what an application does with analytics-node.
import { Analytics } from '@segment/analytics-node'

const [host, calls] = process.argv.slice(2)
const analytics = new Analytics({ writeKey: 'wk-SECRET-0123456789abcdef', host: `http://${host}`, flushAt: 50, flushInterval: 60_000 })
analytics.on('error', (error) => console.log('sdk error:', error.code, String(error.reason)))

const nested = (depth) => (depth === 0 ? 1 : { a: nested(depth - 1) })
const userId = 'ada'
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
