"""Pairs of sentences that differ in a word, or in the order of two words, and therefore in their
meaning: who did it to whom, what is more than what, whether, when, how.

A teacher that reads words has nearly the same vector for both. `data/contraries.tsv` has
hand-written pairs, and the templates here produce others: `draw` returns a sentence, a paraphrase,
its English translation, its contrary, and the English translation of the contrary.
"""
import data


def _table(text):
    """Rows of `|`-separated cells; rows are separated by semicolons."""
    return [tuple(cell.strip() for cell in row.split("|")) for row in text.replace("\n", " ").split(";") if row.strip()]


PEOPLE = _table("""小王|Xiao Wang; 小李|Xiao Li; 张三|Zhang San; 李四|Li Si; 老师|the teacher; 学生|the student; 医生|the doctor; 护士|the nurse; 病人|the patient; 经理|the manager;
    秘书|the secretary; 老板|the boss; 员工|the employee; 爸爸|Dad; 妈妈|Mom; 爷爷|Grandpa; 奶奶|Grandma; 哥哥|my older brother; 妹妹|my younger sister; 孩子|the child; 客户|the client;
    供应商|the supplier; 房东|the landlord; 租客|the tenant; 律师|the lawyer; 司机|the driver; 乘客|the passenger; 卖家|the seller; 买家|the buyer; 警察|the police; 邻居|the neighbor;
    同事|my colleague; 教练|the coach; 记者|the reporter; 志愿者|the volunteer; 导游|the guide; 厨师|the cook; 保安|the guard; 店员|the clerk; 顾客|the customer; 工程师|the engineer""")
DEEDS = _table("""帮助了|helped; 批评了|criticized; 表扬了|praised; 起诉了|sued; 拒绝了|turned down; 欺骗了|cheated; 邀请了|invited;
    救了|saved; 骂了|scolded; 推荐了|recommended; 误会了|misunderstood; 原谅了|forgave; 打败了|beat; 认出了|recognized;
    投诉了|complained about; 说服了|persuaded; 采访了|interviewed; 打伤了|injured; 通知了|notified; 提醒了|reminded;
    安慰了|comforted; 举报了|reported; 录取了|admitted; 淘汰了|eliminated; 吓到了|frightened""")
THINGS = _table("""一本书|a book; 五百块钱|five hundred yuan; 车|the car; 一把伞|an umbrella; 文件|the document; 钥匙|the key; 礼物|the gift; 电脑|the computer; 房子|the house; 手机|the phone; 自行车|the bicycle;
    合同|the contract; 样品|the sample; 发票|the invoice; 相机|the camera""")
GIVEN = _table("""借给|lent|借; 送给|gave|得到; 卖给|sold|买; 寄给|sent|收到; 租给|rented|租""")
CITIES = _table("""北京|Beijing; 上海|Shanghai; 广州|Guangzhou; 深圳|Shenzhen; 成都|Chengdu; 重庆|Chongqing; 杭州|Hangzhou; 武汉|Wuhan; 西安|Xi'an; 昆明|Kunming; 哈尔滨|Harbin; 海南|Hainan; 东京|Tokyo;
    纽约|New York; 伦敦|London; 巴黎|Paris""")
GOODS = _table("""苹果|the apples; 香蕉|the bananas; 这款手机|this phone; 那款手机|that phone; 红色的包|the red bag; 黑色的包|the black bag; 新版本|the new version; 旧版本|the old version; 火车|the train;
    飞机|the plane; 笔记本电脑|the laptop; 台式机|the desktop; 国产车|the domestic car; 进口车|the imported car; 第一个方案|the first plan; 第二个方案|the second plan; 左边的房间|the room on the left;
    右边的房间|the room on the right; 牛肉|beef; 羊肉|lamb; 咖啡|coffee; 茶|tea""")
OF_PEOPLE = _table("高|taller; 年轻|younger; 忙|busier; 聪明|smarter; 胖|fatter; 有经验|more experienced; 紧张|more nervous; 有钱|richer; 有耐心|more patient")
OF_CITIES = _table("冷|colder; 热|hotter; 大|bigger; 远|farther away; 干燥|drier; 繁华|busier; 安静|quieter; 潮湿|damper")
OF_GOODS = _table("贵|more expensive; 便宜|cheaper; 好|better; 重|heavier; 快|faster; 安全|safer; 大|bigger; 受欢迎|more popular; 稳定|more stable")
DONE = _table("""包裹|the parcel|送到|arrived; 退款|the refund|到账|arrived; 合同|the contract|签好|been signed; 会议|the meeting|结束|ended; 飞机|the plane|起飞|taken off; 系统|the system|恢复|recovered;
    作业|the homework|写完|been finished; 房租|the rent|交|been paid; 问题|the problem|解决|been solved; 门|the door|锁上|been locked; 病人|the patient|出院|left the hospital; 货款|the bill|付清|been paid in full;
    软件|the software|更新|been updated; 密码|the password|改|been changed; 车|the car|修好|been repaired; 发票|the invoice|开出来|been issued; 报告|the report|交上去|been handed in; 订单|the order|发货|shipped;
    孩子|the child|睡着|fallen asleep; 比赛|the match|开始|begun; 桥|the bridge|通车|opened; 申请|the application|批准|been approved; 漏洞|the vulnerability|修复|been fixed; 雨|the rain|停|stopped; 货|the goods|卸完|been unloaded;
    服务器|the server|重启|restarted; 数据|the data|备份|been backed up; 账号|the account|注销|been deleted; 伤口|the wound|愈合|healed; 烧|the fever|退|gone; 快递|the delivery|签收|been signed for""")
ALLOWED = _table("""会员|members|参加抽奖|enter the draw; 顾客|customers|试穿|try things on; 宠物|pets|进店|enter the shop; 孕妇|pregnant women|喝咖啡|drink coffee; 外地车|cars from elsewhere|进城|enter the city; 学生|students|带手机|bring phones;
    访客|visitors|拍照|take photos; 员工|employees|在家办公|work from home; 病人|the patient|吃海鲜|eat seafood; 旅客|passengers|带液体|carry liquids; 司机|drivers|在这里停车|park here; 住户|residents|养狗|keep dogs;
    新用户|new users|领优惠券|collect coupons; 儿童|children|单独乘坐|travel alone; 老人|old people|免费乘车|ride for free; 考生|candidates|使用计算器|use calculators; 租客|tenants|养猫|keep cats; 糖尿病人|diabetics|吃西瓜|eat watermelon""")
LIKED = _table("""辣的菜|spicy food; 甜食|sweets; 跑步|running; 看电影|watching films; 喝茶|drinking tea; 下雨天|rainy days; 猫|cats; 加班|overtime; 旅行|travelling; 唱歌|singing; 数学|mathematics; 海鲜|seafood; 开车|driving; 早起|getting up early;
    冬天|winter; 古典音乐|classical music; 这份工作|this job; 新的设计|the new design""")
TRENDS = _table("""房价|house prices; 股价|the share price; 油价|petrol prices; 销量|sales; 利润|profit; 用户数|the number of users; 温度|the temperature; 出生率|the birth rate; 失业率|unemployment; 利率|interest rates; 成本|costs; 血压|his blood pressure;
    体重|her weight; 投诉量|the number of complaints; 库存|stocks; 运费|freight; 工资|wages; 内存占用|memory use; 延迟|latency; 准确率|the accuracy; 退货率|the return rate; 关税|tariffs""")
BY = _table("百分之五|five percent; 百分之十|ten percent; 百分之二十|twenty percent; 三成|thirty percent; 一半|half; 百分之八|eight percent")
EVENTS = _table("""会议|the meeting; 面试|the interview; 考试|the exam; 比赛|the match; 演出|the show; 手术|the operation; 培训|the training; 婚礼|the wedding; 发布会|the launch; 体检|the checkup; 家长会|the parents' meeting; 讲座|the lecture; 聚餐|the dinner""")
TIMES = _table("""星期一|on Monday; 星期二|on Tuesday; 星期三|on Wednesday; 星期四|on Thursday; 星期五|on Friday; 星期六|on Saturday; 今天|today; 明天|tomorrow; 后天|the day after tomorrow; 上午九点|at nine in the morning; 下午三点|at three in the afternoon;
    晚上八点|at eight in the evening; 下个月|next month; 年底|at the end of the year""")
STEPS = _table("""吃饭|eat; 洗澡|take a shower; 付款|pay; 发货|ship; 备份|back up; 升级|upgrade; 签字|sign; 审核|review; 洗手|wash your hands; 热身|warm up; 跑步|run; 预约|make an appointment; 登记|register; 安装|install; 重启|restart; 测试|test;
    发布|release; 吃药|take the medicine; 抽血|have blood drawn; 做饭|cook; 打扫|clean; 写作业|do homework; 看电视|watch television; 验货|inspect the goods; 开会|hold the meeting; 写报告|write the report""")
DID = _table("同意了|agreed; 迟到了|was late; 通过了考试|passed the exam; 报名了|signed up; 中奖了|won a prize; 请假了|took leave; 投了反对票|voted against it; 感染了|got infected; 加班了|worked overtime; 完成了任务|finished the task; 拿到了奖金|got a bonus")
TRIALS = _table("手术|the operation; 实验|the experiment; 谈判|the negotiation; 火箭发射|the rocket launch; 投标|the bid; 升级|the upgrade; 支付|the payment; 登录|the login; 部署|the deployment; 申诉|the appeal; 抢救|the rescue; 创业|the startup; 迁移|the migration")
INCLUDED = _table("""价格|the price|运费|shipping; 房费|the room rate|早餐|breakfast; 套餐|the set meal|饮料|a drink; 门票|the ticket|缆车|the cable car; 保修|the warranty|屏幕|the screen; 工资|the pay|奖金|the bonus; 报价|the quotation|税|tax;
    租金|the rent|水电费|water and power; 学费|the tuition|教材|textbooks; 保险|the insurance|牙科|dental care; 会员费|the membership fee|停车|parking; 机票|the plane ticket|行李|baggage""")
AMOUNTS = _table("要住|nights you must stay|晚; 要等|days you must wait|天; 要买|pieces you must buy|件; 要喝|glasses you must drink|杯; 要休息|hours you must rest|小时; 要提前预约|days ahead you must book|天")
NUMBERS = _table("两|two; 三|three; 五|five; 八|eight; 十|ten")
SHOPS = _table("银行|the bank; 博物馆|the museum; 药店|the pharmacy; 图书馆|the library; 餐厅|the restaurant; 诊所|the clinic; 邮局|the post office; 健身房|the gym; 超市|the supermarket; 办事大厅|the service hall")
ADVICE = _table("""做手术|having surgery; 打疫苗|getting vaccinated; 喝牛奶|drinking milk; 多运动|exercising more; 吃夜宵|eating late at night; 拔智齿|removing the wisdom tooth; 住院|staying in hospital; 喝酒|drinking alcohol; 跑步|running; 戴隐形眼镜|wearing contact lenses;
    热敷|using heat; 吃抗生素|taking antibiotics; 怀孕|getting pregnant; 坐飞机|flying""")
VIEWS = _table("这个方案|this plan; 涨价|the price rise; 搬办公室|moving the office; 新规定|the new rule; 合并|the merger; 延期|the delay; 裁员|the layoffs; 这项提案|the proposal; 改名|the new name; 提前放假|the early holiday; 建垃圾场|building a dump")
DEALS = _table("房子|a house; 二手车|a used car; 股票|shares; 旧手机|an old phone; 黄金|gold; 门票|tickets; 家具|furniture; 游戏账号|a game account; 土地|land; 书|books; 公司|a company")
SETTINGS = _table("音量|the volume|大|up|小|down; 温度|the temperature|高|up|低|down; 亮度|the brightness|高|up|低|down; 字体|the font|大|larger|小|smaller; 火|the heat|大|up|小|down; 速度|the speed|快|up|慢|down; 价格|the price|高|up|低|down")
DEVICES = _table("灯|the light; 空调|the air conditioner; 电视|the television; 窗户|the window; 自动续费|auto-renewal; 消息通知|notifications; 定位|location; 蓝牙|Bluetooth; 煤气|the gas; 摄像头|the camera; 权限|the permission; 深色模式|dark mode; 水龙头|the tap")
NEAR = _table("我家|my home; 公司|the office; 酒店|the hotel; 学校|the school; 机场|the airport; 火车站|the railway station; 医院|the hospital; 地铁站|the subway station; 商场|the mall; 海边|the sea; 仓库|the warehouse; 工厂|the factory")
ENOUGH = _table("钱|money; 时间|time; 内存|memory; 座位|seats; 药|medicine; 人手|people; 库存|stock; 经验|experience; 证据|evidence; 电|power; 预算|budget; 流量|data; 床位|beds")


def _cap(sentence):
    return sentence[0].upper() + sentence[1:] + "."


class Contraries:
    def __init__(self):
        self.written = [tuple(line.split("\t")) for line in (data.DATA / "contraries.tsv").read_text(encoding="utf8").splitlines()]
        self.reworded = data.Rewording()

    def draw(self, rng):
        """(Chinese, a paraphrase, English, the contrary in Chinese, the contrary in English)."""
        if rng.random() < 0.4:
            return rng.choice(self.written)
        one, same, english, other, contrary = rng.choice(KINDS)(rng)
        return one, self.reworded(same, rng), english, other, contrary


def deed(rng):
    (x, ex), (y, ey) = rng.sample(PEOPLE, 2)
    did, past = rng.choice(DEEDS)
    return f"{x}{did}{y}。", f"{y}被{x}{did}。", _cap(f"{ex} {past} {ey}"), f"{y}{did}{x}。", _cap(f"{ey} {past} {ex}")


def given(rng):
    (x, ex), (y, ey) = rng.sample(PEOPLE, 2)
    thing, name = rng.choice(THINGS)
    give, gave, take = rng.choice(GIVEN)
    say = lambda a, b: f"{a}把{thing}{give}{b}。" if not thing.startswith(("一", "五")) else f"{a}{give}{b}{thing}。"
    return say(x, y), f"{y}从{x}那里{take}了{thing}。", _cap(f"{ex} {gave} {name} to {ey}"), say(y, x), _cap(f"{ey} {gave} {name} to {ex}")


def more(rng):
    things, kinds = rng.choice([(PEOPLE, OF_PEOPLE), (CITIES, OF_CITIES), (GOODS, OF_GOODS)])
    (x, ex), (y, ey) = rng.sample(things, 2)
    adjective, comparative = rng.choice(kinds)
    be = lambda name: "are" if name.endswith(("apples", "bananas", "police")) else "is"
    return (f"{x}比{y}{adjective}。", f"{y}没有{x}{adjective}。", _cap(f"{ex} {be(ex)} {comparative} than {ey}"),
            f"{y}比{x}{adjective}。", _cap(f"{ey} {be(ey)} {comparative} than {ex}"))


def done(rng):
    what, name, verb, participle = rng.choice(DONE)
    has = "have" if name == "the goods" else "has"
    yes = [f"{what}已经{verb}了。", f"{what}{verb}了。", f"{what}早就{verb}了。"]
    no = [f"{what}还没有{verb}。", f"{what}没{verb}。", f"{what}还没{verb}呢。"]
    return _either(rng, yes, f"{name} {has} already {participle}", no, f"{name} {has} not {participle} yet")


def allowed(rng):
    who, name, do, to_do = rng.choice(ALLOWED)
    yes = [f"{who}可以{do}。", f"允许{who}{do}。", f"{who}能{do}。"]
    no = [f"{who}不可以{do}。", f"禁止{who}{do}。", f"{who}不能{do}。"]
    return _either(rng, yes, f"{name} may {to_do}", no, f"{name} must not {to_do}")


def liked(rng):
    who, name = rng.choice(PEOPLE)
    what, it = rng.choice(LIKED)
    return _either(rng, [f"{who}喜欢{what}。", f"{who}很爱{what}。"], f"{name} {'like' if name == 'the police' else 'likes'} {it}",
                   [f"{who}不喜欢{what}。", f"{who}讨厌{what}。"], f"{name} {'dislike' if name == 'the police' else 'dislikes'} {it}")


def trend(rng):
    what, name = rng.choice(TRENDS)
    share, by = rng.choice(BY)
    return _either(rng, [f"{what}上升了{share}。", f"{what}提高了{share}。", f"{what}增加了{share}。"], f"{name} rose by {by}",
                   [f"{what}下降了{share}。", f"{what}降低了{share}。", f"{what}减少了{share}。"], f"{name} fell by {by}")


def when(rng):
    what, name = rng.choice(EVENTS)
    (x, ex), (y, ey) = rng.sample(rng.choice([TIMES[:6], TIMES[6:9], TIMES[9:12]]), 2)  # days of the week, days from now, hours: they exclude each other
    return f"{what}定在{x}。", f"{x}有{what}。", _cap(f"{name} is {ex}"), f"{what}定在{y}。", _cap(f"{name} is {ey}")


def moved(rng):
    what, name = rng.choice(EVENTS)
    (x, ex), (y, ey) = rng.sample(TIMES[:6], 2)
    ex, ey = ex.removeprefix("on "), ey.removeprefix("on ")
    return (f"{what}从{x}改到了{y}。", f"原定{x}的{what}改在{y}。", _cap(f"{name} was moved from {ex} to {ey}"),
            f"{what}从{y}改到了{x}。", _cap(f"{name} was moved from {ey} to {ex}"))


def order(rng):
    (x, ex), (y, ey) = rng.sample(STEPS, 2)
    return f"先{x}，再{y}。", f"{x}以后再{y}。", _cap(f"first {ex}, then {ey}"), f"先{y}，再{x}。", _cap(f"first {ey}, then {ex}")


def only(rng):
    who, name = rng.choice(PEOPLE)
    did, past = rng.choice(DID)
    return (f"只有{who}{did}。", f"除了{who}，没有人{did.removesuffix('了')}。", _cap(f"only {name} {past}"),
            f"除了{who}，大家都{did}。", _cap(f"everyone except {name} {past}"))


def trial(rng):
    what, name = rng.choice(TRIALS)
    return _either(rng, [f"{what}成功了。", f"{what}很顺利。"], f"{name} succeeded", [f"{what}失败了。", f"{what}没有成功。"], f"{name} failed")


def included(rng):
    whole, name, part, it = rng.choice(INCLUDED)
    return _either(rng, [f"{whole}包含{part}。", f"{part}已经包含在{whole}里。"], f"{name} includes {it}",
                   [f"{whole}不包含{part}。", f"{part}要另外付钱，不在{whole}里。"], f"{name} does not include {it}")


def amount(rng):
    do, english, unit = rng.choice(AMOUNTS)
    number, name = rng.choice(NUMBERS)
    unit_name, rest = english.split(" ", 1)
    return (f"至少{do}{number}{unit}。", f"{do}{number}{unit}以上。", _cap(f"{rest} at least {name} {unit_name}"),
            f"最多{do.replace('要', '只能')}{number}{unit}。", _cap(f"{rest.replace('must', 'may')} at most {name} {unit_name}"))


def shop(rng):
    what, name = rng.choice(SHOPS)
    day, on = rng.choice(TIMES[:8])
    return _either(rng, [f"{what}{day}开门。", f"{what}{day}营业。"], f"{name} is open {on}", [f"{what}{day}不开门。", f"{what}{day}休息。"], f"{name} is closed {on}")


def advice(rng):
    what, doing = rng.choice(ADVICE)
    return _either(rng, [f"医生建议{what}。", f"医生说最好{what}。"], f"the doctor recommends {doing}", [f"医生不建议{what}。", f"医生说最好不要{what}。"], f"the doctor advises against {doing}")


def view(rng):
    who, name = rng.choice(PEOPLE)
    what, it = rng.choice(VIEWS)
    s = "" if name == "the police" else "s"
    return _either(rng, [f"{who}支持{what}。", f"{who}赞成{what}。"], f"{name} support{s} {it}", [f"{who}反对{what}。", f"{who}不赞成{what}。"], f"{name} oppose{s} {it}")


def deal(rng):
    who, name = rng.choice(PEOPLE)
    what, it = rng.choice(DEALS)
    want = "want" if name == "the police" else "wants"
    return f"{who}想买{what}。", f"{who}打算买{what}。", _cap(f"{name} {want} to buy {it}"), f"{who}想卖{what}。", _cap(f"{name} {want} to sell {it}")


def setting(rng):
    what, name, more_, up, less, down = rng.choice(SETTINGS)
    turn = "make" if up == "larger" else "turn"
    return f"请把{what}调{more_}一点。", f"{what}能不能{more_}一点？", _cap(f"please {turn} {name} {up}"), f"请把{what}调{less}一点。", _cap(f"please {turn} {name} {down}")


def device(rng):
    what, name = rng.choice(DEVICES)
    on, off = ("open", "close") if name == "the window" else ("turn on", "turn off")
    if rng.random() < 0.5:
        return f"怎么打开{what}？", f"如何开启{what}？", f"How do I {on} {name}?", f"怎么关闭{what}？", f"How do I {off} {name}?"
    return f"把{what}打开。", f"打开{what}。", _cap(f"{on} {name}"), f"把{what}关掉。", _cap(f"{off} {name}")


def near(rng):
    (x, ex), (y, ey) = rng.sample(NEAR, 2)
    return _either(rng, [f"{x}离{y}很近。", f"{x}就在{y}附近。"], f"{ex} is close to {ey}", [f"{x}离{y}很远。", f"{x}离{y}不近。"], f"{ex} is far from {ey}")


def enough(rng):
    what, name = rng.choice(ENOUGH)
    return _either(rng, [f"{what}够了。", f"{what}很充足。"], f"there is enough {name}" if not name.endswith(("s", "people")) else f"there are enough {name}",
                   [f"{what}不够。", f"{what}不足。"], f"there is not enough {name}" if not name.endswith(("s", "people")) else f"there are not enough {name}")


def _either(rng, yes, english_yes, no, english_no):
    """Either of the two as the sentence, and the other as its contrary."""
    sides = [(yes, english_yes), (no, english_no)]
    rng.shuffle(sides)
    (own, english), (other, contrary) = sides
    one, same = rng.sample(own, 2)
    return one, same, _cap(english), rng.choice(other), _cap(contrary)


KINDS = [deed, deed, given, more, more, done, done, allowed, liked, trend, when, moved, order, only, trial, included, amount, shop, advice, view, deal, setting, device, near, enough]

if __name__ == "__main__":
    import random
    import sys

    contraries = Contraries()
    for _ in range(int(sys.argv[1])):
        print("\t".join(contraries.draw(random)))
