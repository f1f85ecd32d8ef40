<schema name="trip">
  You plan trips.
  <module name="plan">
    For <parameter name="days" length="6"/> days.
    <union>
      <module name="miami">Miami has beaches.</module>
      <module name="oslo">Oslo has fjords.</module>
    </union>
  </module>
  <module name="budget">Costs matter.</module>
</schema>
